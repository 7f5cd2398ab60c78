#pragma once

/// What the tests of a store on several ranks share: a folder that all of them see, and pieces as an optimizer of their layout holds them.

#include "base/errors.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/tiny_checkpoint.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

constexpr int64_t kExperts = 12;

/// Pieces as an optimizer holds them: dense tensors and each rank's block of experts in flat slices among their copies, cut wherever the
/// count falls; the router bias on every rank.
template <class Make>
std::vector<StatePiece> layout(const ProcessMesh& mesh, Make make) {
  std::vector<StatePiece> pieces;
  const auto slice = [&](const std::string& name, const Box& box, int index, int of) {
    const int64_t length = (box.numel() + of - 1) / of;
    const int64_t begin = std::min(box.numel(), index * length);
    const int64_t end = std::min(box.numel(), begin + length);
    pieces.push_back(make("master", Piece{name, box, begin, end}, at::kFloat));
    pieces.push_back(make("exp_avg", Piece{name, box, begin, end}, at::kBFloat16));
  };
  slice("layers.0.qkv", Box::whole({5, 7}), mesh.rank(), mesh.size());
  slice("layers.0.norm", Box::whole({3}), mesh.rank(), mesh.size());  // at 4 ranks one has nothing of it
  const int shard = mesh.rank() % mesh.expert_parallel();
  const int64_t local = kExperts / mesh.expert_parallel();
  slice("layers.0.experts", Box::rows({kExperts, 2, 3}, shard * local, local), mesh.rank() / mesh.expert_parallel(),
        mesh.size() / mesh.expert_parallel());
  pieces.push_back(make("state", Piece{"layers.0.router_bias", Box::whole({kExperts}), 0, kExperts}, at::kDouble));
  return pieces;
}

inline Snapshot snapshot_of(const ProcessMesh& mesh, int64_t step, int64_t salt = 0) {
  Snapshot snapshot;
  snapshot.step = step;
  snapshot.numbers = {{"loss_scale", 65536.0}};
  snapshot.counters = {{"next_sample", step * 16}};
  snapshot.config = "run: {seed: 1234}\n";
  snapshot.pieces =
      layout(mesh, [salt](const char* kind, Piece piece, at::ScalarType dtype) { return filled(kind, std::move(piece), dtype, salt); });
  return snapshot;
}

/// Restores into blank pieces of the mesh's own layout. @returns "" or what differs.
inline std::string restored_trouble(CheckpointStore& store, const std::filesystem::path& checkpoint, const ProcessMesh& mesh,
                                    int64_t salt = 0) {
  Snapshot wanted;
  wanted.pieces = layout(mesh, blank);
  store.restore(checkpoint, wanted);
  for (const StatePiece& state : wanted.pieces) {
    if (const std::string trouble = wrong_element(state, salt); !trouble.empty()) return trouble;
  }
  return wanted.counters.at("next_sample") == wanted.step * 16 ? "" : "counters";
}

class StoreOnRanks : public ::testing::Test {
 protected:
  void SetUp() override {
    world_ = test_session().world();
    if (world_->rank() == 0) own_.emplace();
    folder_ = world_->broadcast_text(world_->rank() == 0 ? own_->path().string() : "", 0);
  }
  void TearDown() override { world_->patient_barrier(); }

  bool is_last() const { return world_->rank() == world_->size() - 1; }

  /// @returns what `work` threw as CheckpointError, after checking that every rank got the same.
  template <class Work>
  std::string same_error(Work work) {
    std::string text = "nothing";
    try {
      work();
    } catch (const CheckpointError& error) {
      text = error.what();
    }
    for (const std::string& other : world_->all_gather_text(text)) EXPECT_EQ(other, text);
    return text;
  }

  std::set<std::string> names() const {
    world_->patient_barrier();
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) names.insert(entry.path().filename().string());
    world_->patient_barrier();
    return names;
  }

  std::unique_ptr<HostCommunicator> world_;
  std::optional<TemporaryFolder> own_;
  std::filesystem::path folder_;
  Logger log_;
};

}  // namespace pimoe
