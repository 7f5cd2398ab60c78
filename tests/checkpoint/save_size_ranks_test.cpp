#include "checkpoint/save_size.h"

#include "checkpoint/collective_save.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/tiny_checkpoint.h"
#include "support/ranks.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <optional>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// A model's masters and moments, each in even slices over the ranks.
struct Model {
  int64_t layers = 1;
  int64_t width = 8;
  int64_t experts = 4;
  at::ScalarType dtype = at::kFloat;
  int64_t part_bytes = int64_t{1} << 30;
  size_t config_bytes = 100;
};

Snapshot snapshot_of(const Model& model, int64_t rank, int64_t ranks) {
  Snapshot snapshot;
  snapshot.step = 7;
  snapshot.config = std::string(model.config_bytes, 'c');
  snapshot.counters = {{"tokens_seen", int64_t{1} << 60}};
  const auto slice = [&](const char* kind, const std::string& name, const Box& box) {
    const int64_t each = (box.numel() + ranks - 1) / ranks;
    const int64_t begin = std::min(box.numel(), rank * each);
    const int64_t end = std::min(box.numel(), begin + each);
    snapshot.pieces.push_back({kind, Piece{name, box, begin, end}, at::zeros({end - begin}, model.dtype)});
  };
  for (const char* kind : {"master", "exp_avg", "exp_avg_sq"}) {
    slice(kind, "embedding.weight", Box::whole({300, model.width}));
    for (int64_t layer = 0; layer < model.layers; ++layer) {
      for (const char* name : {"attention_norm.weight", "moe_norm.weight"}) {
        slice(kind, concat("layers.", layer, ".", name), Box::whole({model.width}));
      }
      for (const char* name : {"attention.query.weight", "attention.output.weight", "moe.router.weight"}) {
        slice(kind, concat("layers.", layer, ".", name), Box::whole({model.width, model.width}));
      }
      slice(kind, concat("layers.", layer, ".moe.experts.down"), Box::whole({model.experts, model.width, model.width}));
    }
  }
  return snapshot;
}

struct Stored {
  int64_t files = 0;
  int64_t bytes = 0;
};

Stored stored_in(const fs::path& folder) {
  Stored all;
  for (const auto& file : fs::directory_iterator(folder)) {
    ++all.files;
    all.bytes += static_cast<int64_t>(file.file_size());
  }
  return all;
}

TEST(SizeOfASave, IsForetoldNeverTooSmallAndCloseWhateverTheModel) {
  const auto world = test_session().world();
  const Model models[] = {
      {},
      {.layers = 2, .width = 64, .experts = 8, .dtype = at::kBFloat16},
      {.layers = 24, .width = 16},
      {.layers = 1, .width = 400, .experts = 16},                                   // chunks that are filled up
      {.layers = 2, .width = 128, .experts = 8, .part_bytes = 100'000},             // many files
      {.layers = 3, .width = 24, .dtype = at::kDouble, .config_bytes = 1'000'000},  // much manifest
  };
  for (const Model& model : models) {
    std::optional<TemporaryFolder> own;
    if (world->rank() == 0) own.emplace();
    const fs::path folder = world->broadcast_text(world->rank() == 0 ? own->path().string() : "", 0);
    const Snapshot snapshot = snapshot_of(model, world->rank(), world->size());
    CollectiveSave save(folder, snapshot, *world, 1, model.part_bytes);
    save.run();
    const auto [files, bytes] = stored_in(folder / step_name(7));
    world->patient_barrier();
    const std::string which = concat(model.layers, " layers of ", model.width, " on ", world->size(), " ranks: ", files, " files");
    EXPECT_GE(save.needed_bytes(), bytes) << which;
    const int64_t allowed = (int64_t{64} << 10) * world->size() + (int64_t{6} << 10) * files + bytes * 3 / 1000;
    EXPECT_LE(save.needed_bytes(), bytes + allowed) << which;
  }
}

}  // namespace
}  // namespace pimoe
