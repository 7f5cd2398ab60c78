#include "checkpoint/reshard.h"

#include "base/errors.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/comparison.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/tiny_checkpoint.h"
#include "checkpoint/verification.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kExperts = 24;

Snapshot moe_snapshot() {
  Snapshot snapshot;
  snapshot.step = 100;
  snapshot.numbers = {{"loss_scale", 0.1}};
  snapshot.counters = {{"next_sample", 1600}};
  snapshot.config = "run: {seed: 7}\n";
  const auto add = [&](const std::string& kind, const std::string& name, std::vector<int64_t> shape, at::ScalarType dtype) {
    const Box box = Box::whole(std::move(shape));
    snapshot.pieces.push_back(filled(kind, {name, box, 0, box.numel()}, dtype));
  };
  for (const char* kind : {"master", "exp_avg", "exp_avg_sq"}) {
    add(kind, "layers.0.attention.qkv.weight", {13, 29}, at::kFloat);
    add(kind, "layers.0.moe.experts.gate_up.weight", {kExperts, 6, 11}, kind[0] == 'm' ? at::kDouble : at::kBFloat16);
    add(kind, "final_norm.weight", {3}, at::kFloat);
  }
  add("state", "layers.0.moe.router.bias", {kExperts}, at::kDouble);
  add("state", "empty", {0}, at::kFloat);
  return snapshot;
}

class Reshard : public ::testing::Test {
 protected:
  void SetUp() override { save_snapshot(original_, moe_snapshot(), /*part_bytes=*/300); }
  fs::path to(const std::string& name) const { return folder_.path() / name / step_name(100); }

  TemporaryFolder folder_;
  fs::path original_ = folder_.path() / "original" / step_name(100);
};

TEST_F(Reshard, EveryLayoutHoldsTheSameTensorsAndGoesBackToTheSameBits) {
  for (const int64_t ranks : {1, 2, 3, 4, 6, 8}) {
    for (int64_t parallel = 1; parallel <= ranks; ++parallel) {
      if (ranks % parallel != 0 || kExperts % parallel != 0) continue;
      SCOPED_TRACE(testing::Message() << ranks << " ranks, expert_parallel " << parallel);
      const std::string name = std::to_string(ranks) + "-" + std::to_string(parallel);
      reshard_checkpoint(original_, to(name), {ranks, parallel, 500});
      EXPECT_EQ(verify_checkpoint(to(name), /*full=*/true), "");
      const CheckpointComparison comparison = compare_checkpoints(original_, to(name));
      EXPECT_TRUE(comparison.same());
      EXPECT_EQ(comparison.equal_tensors, 11);
      EXPECT_FALSE(comparison.config_differs);
      const Manifest manifest = read_manifest(to(name));
      EXPECT_EQ(manifest.ranks, ranks);
      EXPECT_EQ(manifest.expert_parallel, parallel);

      reshard_checkpoint(to(name), to(name + "-back"), {1, 1, 500});
      reshard_checkpoint(original_, to(name + "-one"), {1, 1, 500});
      for (const StoredFile& file : read_manifest(to(name + "-one")).files) {
        EXPECT_EQ(read_text(to(name + "-back") / file.name), read_text(to(name + "-one") / file.name)) << file.name;
      }
      fs::remove_all(to(name + "-one").parent_path());
    }
  }
}

TEST_F(Reshard, ARankReadsOnlyItsOwnFiles) {
  reshard_checkpoint(original_, to("four"), {4, 2});
  // Rank 3 holds experts 12 to 23, the second half of them.
  for (const StoredPiece& stored : read_manifest(to("four")).pieces) {
    if (stored.tensor() != "master/layers.0.moe.experts.gate_up.weight" || stored.file.find("rank-0003") != 0) continue;
    EXPECT_EQ(stored.piece.box, Box::rows({kExperts, 6, 11}, 12, 12));
    EXPECT_EQ(stored.piece.end, 12 * 66);
    EXPECT_EQ(stored.piece.begin, 448) << "half of 792, up to a multiple of 64";
    return;
  }
  FAIL() << "rank 3 has none of the experts";
}

TEST_F(Reshard, NoFileHasMoreThanWasAsked) {
  reshard_checkpoint(original_, to("small"), {2, 1, 256});
  const Manifest manifest = read_manifest(to("small"));
  std::map<std::string, int64_t> bytes;
  for (const StoredPiece& stored : manifest.pieces) bytes[stored.file] += stored.piece.numel() * element_bytes(stored.type);
  EXPECT_GT(bytes.size(), 8u);
  for (const auto& [file, count] : bytes) EXPECT_LE(count, 256) << file;
}

TEST_F(Reshard, WhatDoesNotFitIsRefusedAndNothingStays) {
  const auto error_of = [&](const ReshardTarget& target) {
    try {
      reshard_checkpoint(original_, to("refused"), target);
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_EQ(error_of({4, 3}), "expert_parallel (3) must divide the ranks (4)");
  EXPECT_EQ(error_of({5, 5}), "expert_parallel (5) must divide the experts of exp_avg/layers.0.moe.experts.gate_up.weight, [24, 6, 11]");
  EXPECT_EQ(error_of({0, 1}), "ranks (0) must be at least 1");
  fs::create_directories(to("refused"));
  EXPECT_NE(error_of({2, 1}).find("was not written: it exists already"), std::string::npos);
  fs::remove(to("refused"));
  std::string bytes = read_text(original_ / "rank-0000-of-0001-part-000.h5");
  bytes[bytes.size() / 2] ^= 1;
  write_text(original_ / "rank-0000-of-0001-part-000.h5", bytes);
  EXPECT_NE(error_of({2, 1}).find("is damaged"), std::string::npos);
  EXPECT_FALSE(fs::exists(to("refused")));
  EXPECT_FALSE(fs::exists(to("refused") += ".tmp"));
}

}  // namespace
}  // namespace pimoe
