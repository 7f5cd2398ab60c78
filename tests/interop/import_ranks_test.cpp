#include "base/errors.h"
#include "checkpoint/comparison.h"
#include "checkpoint/manifest.h"
#include "checkpoint/verification.h"
#include "interop/hf_checkpoint.h"
#include "interop/hf_fixture.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

class ImportOnRanks : public ::testing::Test {
 protected:
  ImportOnRanks() : world_(test_session().world()) {
    if (world_->rank() == 0) own_.emplace();
    folder_ = world_->broadcast_text(world_->rank() == 0 ? own_->path().string() : "", 0);
  }
  ~ImportOnRanks() override { world_->patient_barrier(); }

  /// What rank 0 writes, as all ranks find it.
  fs::path model(const std::string& name, const HfJson& config, at::ScalarType dtype) {
    if (world_->rank() == 0) write_tiny_model(*own_, name, config, dtype);
    world_->patient_barrier();
    return folder_ / name;
  }
  HfImport open(const fs::path& hf, const std::optional<Upcycling>& upcycling = std::nullopt) const {
    return HfImport(hf, 0, upcycling, {world_->rank(), world_->size()});
  }

  /// Imports in every layout of these ranks, and compares with what one process writes.
  void expect_every_layout_to_write_the_same(const fs::path& hf, const std::string& name, const std::optional<Upcycling>& upcycling = {}) {
    Logger log(1);
    const HfImport imported = open(hf, upcycling);
    const fs::path alone = folder_ / (name + "-alone") / "step-00000000";
    if (world_->rank() == 0) {
      fs::create_directories(alone.parent_path());
      write_imported(imported, alone, "model: {}\n", 5, log);
    }
    const int64_t experts = imported.model().moe.common_divisor();
    for (int64_t expert_parallel = 1; expert_parallel <= world_->size(); ++expert_parallel) {
      if (world_->size() % expert_parallel != 0 || (expert_parallel > 1 && (experts == 0 || experts % expert_parallel != 0))) continue;
      SCOPED_TRACE(concat(name, ", expert_parallel ", expert_parallel));
      const fs::path folder = folder_ / concat(name, "-", expert_parallel);
      write_imported(imported, folder, "model: {}\n", 5, log, *world_, expert_parallel);
      if (world_->rank() != 0) continue;
      EXPECT_EQ(verify_checkpoint(folder / "step-00000000", /*full=*/true), "");
      const CheckpointComparison comparison = compare_checkpoints(alone, folder / "step-00000000");
      EXPECT_TRUE(comparison.same());
      EXPECT_FALSE(comparison.config_differs);
      EXPECT_GT(comparison.equal_tensors, 10);
      const Manifest manifest = read_manifest(folder / "step-00000000");
      EXPECT_EQ(manifest.ranks, world_->size());
      EXPECT_EQ(manifest.expert_parallel, expert_parallel);
    }
    world_->patient_barrier();
  }

  std::optional<TemporaryFolder> own_;  ///< rank 0's
  std::unique_ptr<HostCommunicator> world_;
  fs::path folder_;
};

TEST_F(ImportOnRanks, EveryFamilyAndDtypeGivesTheTensorsOfOneRank) {
  int64_t number = 0;
  for (const HfFamily family : kHfFamilies) {
    HfJson config = tiny_config(family);
    if (family == HfFamily::kQwen3) config["tie_word_embeddings"] = true;
    const at::ScalarType dtype = std::array{at::kFloat, at::kBFloat16, at::kHalf, at::kDouble}[static_cast<size_t>(number % 4)];
    const std::string name = concat("hf-", number++);
    expect_every_layout_to_write_the_same(model(name, config, dtype), name);
  }
}

TEST_F(ImportOnRanks, UpcycledModelsGiveTheTensorsOfOneRankToo) {
  const fs::path hf = model("dense", tiny_config(HfFamily::kLlama), at::kBFloat16);
  expect_every_layout_to_write_the_same(hf, "dense", parse_upcycling("experts=4,choices=2,split=2,noise=0.1"));
}

// Embedding, head and experts are cut; what is small is one rank's.
TEST_F(ImportOnRanks, ARankReadsItsShareAlone) {
  HfJson config = tiny_config(HfFamily::kMixtral);
  config.update({{"vocab_size", 512}, {"hidden_size", 32}, {"intermediate_size", 64}, {"num_local_experts", 8}});
  const HfImport imported = open(model("wide", config, at::kFloat));
  Logger log(1);
  const int64_t ranks = world_->size();
  write_imported(imported, folder_ / "wide-run", "", 5, log, *world_, ranks == 3 ? 1 : ranks);
  int64_t sum = 0;
  for (const std::string& text : world_->all_gather_text(concat(imported.weights().bytes_read()))) {
    const int64_t read = std::stoll(text);
    sum += read;
    EXPECT_LT(read, imported.weights().bytes() * 13 / (10 * ranks) + 1);
  }
  EXPECT_EQ(sum, imported.weights().bytes());
}

// Another rank's elements: the last one of the head is the last rank's.
TEST_F(ImportOnRanks, WhatOneRankFindsWrongIsEveryRanksErrorAndLeavesNothing) {
  const fs::path hf = model("bad", tiny_config(HfFamily::kLlama), at::kFloat);
  if (world_->rank() == 0) {
    const SafetensorsFile file(hf / "model.safetensors");
    const SafetensorsEntry& head = file.tensors().at("lm_head.weight");
    std::string content = read_file(hf / "model.safetensors");
    uint64_t last = 0;
    for (const auto& [name, entry] : file.tensors()) last = std::max(last, entry.end);
    content.replace(content.size() - last + head.end - 4, 4, std::string("\0\0\x80\x7f", 4));  // infinity
    replace_file(hf / "model.safetensors", content);
  }
  world_->patient_barrier();
  Logger log(1);
  const HfImport imported = open(hf);
  std::string said;
  try {
    write_imported(imported, folder_ / "bad-run", "", 5, log, *world_, 1);
  } catch (const DataError& error) {
    said = error.what();
  }
  EXPECT_NE(said.find("lm_head.weight has numbers that are not finite"), std::string::npos) << said;
  for (const std::string& text : world_->all_gather_text(said)) EXPECT_EQ(text, said);
  if (world_->rank() == 0) {
    EXPECT_TRUE(fs::is_empty(folder_ / "bad-run"));
  }
  // A tied head is looked at in shares.
  HfJson config = tiny_config(HfFamily::kLlama);
  config["tie_word_embeddings"] = true;
  if (world_->rank() == 0) replace_file(hf / "config.json", config.dump());
  world_->patient_barrier();
  int refused = 0;
  try {
    open(hf);
  } catch (const DataError&) {
    refused = 1;
  }
  const std::vector<std::string> by_rank = world_->all_gather_text(concat(refused));
  EXPECT_NE(std::find(by_rank.begin(), by_rank.end(), "1"), by_rank.end());
}

}  // namespace
}  // namespace pimoe
