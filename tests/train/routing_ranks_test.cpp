#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "moe/routing_file.h"
#include "train/tiny_run.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>
#include <tuple>

namespace pimoe {
namespace {

/// (step, router, token) -> experts
using Decisions = std::map<std::tuple<int64_t, std::string, int64_t>, std::vector<int32_t>>;

Decisions read_decisions(const std::filesystem::path& folder) {
  Decisions found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".h5") continue;
    const RoutingSample sample = read_routing(entry.path());
    for (const auto& [router, decisions] : sample.routers) {
      for (size_t index = 0; index < sample.tokens.size(); ++index) {
        const auto first = decisions.experts.begin() + static_cast<int64_t>(index) * decisions.choices;
        const bool is_new =
            found.emplace(std::tuple(sample.step, router, sample.tokens[index]), std::vector<int32_t>(first, first + decisions.choices))
                .second;
        EXPECT_TRUE(is_new) << "two ranks recorded one token";
      }
    }
  }
  return found;
}

/// Trains on the job's first `ranks` ranks, the others wait. @returns what was recorded
Decisions train(TrainConfig config, int ranks) {
  const auto world = test_session().world();
  config.train.micro_batch = micro_batch_for_two_steps(ranks);  // layouts agree at equal micro-steps
  const auto mesh = sub_mesh(ranks, config.mesh, config.model.moe.experts);
  if (world->rank() < ranks) {
    Logger log(1);
    Trainer trainer(config, *mesh, log, nullptr);
    EXPECT_EQ(trainer.run(), TrainOutcome::kComplete);
  }
  world->barrier();
  return read_decisions(config.run.directory / "routing");
}

TrainConfig recorded_config(const SharedFolder& folder, const std::string& run) {
  TrainConfig config = tiny_config(folder, run);
  config.mesh.expert_parallel = 1;
  config.train.steps = 4;
  config.log.routing = {.every_steps = 2, .tokens = 37};  // not a whole number of sequences
  return config;
}

TEST(RoutingLog, EveryLayoutRecordsTheSameTokensAndDecisions) {
  const SharedFolder folder;
  const Decisions alone = train(recorded_config(folder, "alone"), 1);
  EXPECT_EQ(alone.size(), 2u * 2u * 37u) << "steps 2 and 4, two layers";
  EXPECT_EQ(train(recorded_config(folder, "shared"), test_session().world()->size()), alone);
}

TEST(RoutingReplay, FeedsRecordedExpertsBackInEveryLayoutAndUnderRecompute) {
  const SharedFolder folder;
  const Decisions recorded = train(recorded_config(folder, "recorded"), 1);
  TrainConfig other = recorded_config(folder, "other");
  other.run.seed = 4321;  // other weights and other data
  ASSERT_NE(train(other, 1), recorded);
  other.run.directory = folder.path() / "replayed";
  other.model.moe.router.replay = folder.path() / "recorded" / "routing";
  other.train.recompute = RecomputePolicy::kFull;
  EXPECT_EQ(train(other, test_session().world()->size()), recorded);
}

TEST(RoutingReplay, LeavesTokensThatWereNotRecordedToTheRouter) {
  const SharedFolder folder;
  TrainConfig whole = recorded_config(folder, "whole");
  whole.log.routing.tokens = 56;
  const Decisions own = train(whole, 1);
  const Decisions recorded = train(recorded_config(folder, "recorded"), 1);
  whole.run.directory = folder.path() / "replayed";
  whole.model.moe.router.replay = folder.path() / "recorded" / "routing";
  EXPECT_EQ(train(whole, 1), own) << "a run that replays itself is the same run";
}

TEST(RoutingReplay, RefusesWhatIsDamagedOrFromAnotherModel) {
  const SharedFolder folder;
  TrainConfig config = recorded_config(folder, "recorded");
  train(config, 1);
  if (test_session().world()->rank() != 0) return;
  const auto file = folder.path() / "recorded/routing/step-00000002-rank-0000.h5";
  const RoutingReplay replay(file);
  const at::Tensor one = at::zeros({4, 1}, at::kInt);
  const at::Tensor two = at::zeros({4, 2}, at::kInt);
  EXPECT_THROW(replay.apply("layers.0.moe.router", 1, 0, 8, one), DataError);
  EXPECT_THROW(replay.apply("layers.0.moe.router", 1, 0, 1, two), DataError);
  EXPECT_TRUE(replay.apply("layers.0.moe.router", 0, 0, 1, two).equal(two)) << "another step";
  EXPECT_TRUE(replay.apply("layers.9.moe.router", 1, 0, 1, two).equal(two)) << "another layer";
  EXPECT_TRUE(replay.apply("layers.0.moe.router", 1, 37, 1, two).equal(two)) << "other tokens";

  std::string bytes = read_file(file);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  replace_file(file, bytes);
  EXPECT_THROW(RoutingReplay{file}, DataError);
  std::filesystem::remove(file.string() + ".sha256");
  EXPECT_THROW(RoutingReplay{file}, DataError);
  EXPECT_THROW(RoutingReplay{folder.path() / "nowhere"}, IoError);
  std::filesystem::create_directories(folder.path() / "empty");
  EXPECT_THROW(RoutingReplay{folder.path() / "empty"}, DataError);
}

}  // namespace
}  // namespace pimoe
