#include "base/digest.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/hdf5_file.h"
#include "base/text.h"
#include "moe/routing_file.h"
#include "train/tiny_run.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <functional>
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
  other.model.initial_deviation = 0.4;  // other weights
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

/// What a recording of these layers, tokens and ids says; every token goes to expert 3 and 5.
RoutingSample sample_of(const std::vector<std::string>& routers, const std::vector<int64_t>& tokens, const std::vector<int64_t>& ids) {
  RoutingSample sample{
      .step = 2, .router_kind = "softmax", .choices = 2, .expert_count = 8, .tokens = tokens, .token_ids = ids, .routers = {}};
  for (const std::string& router : routers) {
    RoutingDecisions& decisions = sample.routers[router] = {.choices = 2, .experts = {}, .weights = {}};
    for (size_t token = 0; token < tokens.size(); ++token) {
      decisions.experts.insert(decisions.experts.end(), {3, 5});
      decisions.weights.insert(decisions.weights.end(), {0.5, 0.5});
    }
  }
  return sample;
}

/// @returns what the error says, "" for none
std::string refused(const std::function<void()>& work) {
  try {
    work();
    return "";
  } catch (const DataError& error) {
    return error.what();
  }
}

const std::vector<std::string> kRouters = {"layers.0.moe.router", "layers.1.moe.router"};

TEST(RoutingReplay, RefusesAnotherBatch) {
  const SharedFolder folder;
  TrainConfig config = recorded_config(folder, "recorded");
  train(config, 1);
  if (test_session().world()->rank() != 0) return;
  config.model.moe.router.replay = folder.path() / "recorded/routing";
  for (const char* change : {"seed", "corpus"}) {
    TrainConfig other = config;
    other.run.directory = folder.path() / concat("other-", change);
    if (std::string(change) == "seed") other.run.seed = 4321;
    if (std::string(change) == "corpus") other.data.train = (folder.path() / "repeats").string();
    const std::string error = refused([&] {
      Logger log(1);
      const auto mesh = single_mesh(other.mesh, 8);
      Trainer(other, *mesh, log, nullptr).run();
    });
    EXPECT_NE(error.find("of step 2 was recorded with id "), std::string::npos) << change << ": " << error;
  }
}

TEST(RoutingReplay, RefusesOtherModelsSecondTokensAndOlderFormats) {
  const SharedFolder folder;
  if (test_session().world()->rank() != 0) return;
  const auto write = [&](const std::string& name, const RoutingSample& sample) {
    std::filesystem::create_directories((folder.path() / name).parent_path());
    write_routing(folder.path() / name, sample);
  };
  write("good/a.h5", sample_of(kRouters, {0, 1}, {7, 9}));
  write("good/b.h5", sample_of(kRouters, {2}, {4}));
  const RoutingReplay good(folder.path() / "good");
  const auto misfit = [&](const std::vector<std::string>& routers, const MoeConfig& config) {
    return refused([&] { good.require_fits(routers, config); });
  };
  const auto moe = [](int64_t experts, int64_t choices) {
    MoeConfig config;
    config.experts = experts;
    config.choices = choices;
    return config;
  };
  const MoeConfig fitting = moe(8, 2);
  EXPECT_EQ(misfit(kRouters, fitting), "");
  EXPECT_NE(misfit({kRouters[0]}, fitting).find("which this model does not have"), std::string::npos);
  EXPECT_NE(misfit({kRouters[0], "layers.2.moe.router"}, fitting).find("no decisions of layers.2"), std::string::npos);
  EXPECT_NE(misfit(kRouters, moe(8, 3)).find("it had 2 choices, and model.moe.choices is 3"), std::string::npos);
  EXPECT_NE(misfit(kRouters, moe(16, 2)).find("it had 8 experts, and model.moe.experts is 16"), std::string::npos);
  MoeConfig other = fitting;
  other.router.kind = RouterKind::kExpertChoice;
  EXPECT_NE(misfit(kRouters, other).find("it had router.kind softmax, and model.moe.router.kind is expert_choice"), std::string::npos);
  EXPECT_EQ(good.doubt_about(1, 2), "");
  EXPECT_EQ(good.doubt_about(2, 9), "");
  EXPECT_NE(good.doubt_about(3, 9).find("its steps (2 to 2) are none of the run's 3 to 9"), std::string::npos);
  EXPECT_NE(good.doubt_about(1, 1), "");

  write("twice/a.h5", sample_of(kRouters, {0, 1}, {7, 9}));
  write("twice/b.h5", sample_of(kRouters, {1}, {9}));
  EXPECT_NE(refused([&] { RoutingReplay(folder.path() / "twice"); }).find("token 1 of step 2 is recorded a second time"),
            std::string::npos);

  // As PiMoE wrote it before there were formats.
  Hdf5Writer writer;
  const int64_t step = 2;
  writer.add("step", ElementType::kInt64, &step, 1);
  writer.add("token", ElementType::kInt64, &step, 1);
  writer.add("token_id", ElementType::kInt64, &step, 1);
  const Hdf5Image image = writer.finish();
  write_durably(folder.path() / "old.h5", image.data(), image.size());
  replace_file(folder.path() / "old.h5.sha256", sha256(image.data(), image.size()) + "  old.h5\n");
  EXPECT_NE(refused([&] { RoutingReplay(folder.path() / "old.h5"); }).find("it has format 1"), std::string::npos);
}

TEST(RoutingReplay, RefusesWhatIsDamagedOrFromAnotherModel) {
  const SharedFolder folder;
  TrainConfig config = recorded_config(folder, "recorded");
  train(config, 1);
  if (test_session().world()->rank() != 0) return;
  const auto file = folder.path() / "recorded/routing/step-00000002-rank-0000.h5";
  const RoutingReplay replay(file);
  const at::Tensor two = at::zeros({4, 2}, at::kInt);
  const std::vector<int64_t> recorded = read_routing(file).token_ids;
  const at::Tensor ids = at::tensor(std::vector<int64_t>(recorded.begin(), recorded.begin() + 4), at::kLong);
  EXPECT_THROW(replay.apply("layers.0.moe.router", 1, 0, ids + 1, two), DataError);
  EXPECT_NO_THROW(replay.apply("layers.0.moe.router", 1, 0, ids, two));
  EXPECT_TRUE(replay.apply("layers.0.moe.router", 0, 0, ids, two).equal(two)) << "another step";
  EXPECT_TRUE(replay.apply("layers.0.moe.router", 1, 37, ids, two).equal(two)) << "other tokens";

  std::string bytes = read_file(file);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  replace_file(file, bytes);
  EXPECT_THROW(RoutingReplay{file}, DataError);
  std::filesystem::remove(file.string() + ".sha256");
  EXPECT_THROW(RoutingReplay{file}, DataError);
  try {
    const RoutingReplay none(folder.path() / "nowhere");
    ADD_FAILURE();
  } catch (const IoError& error) {
    EXPECT_EQ(std::string(error.what()).find("model.moe.router.replay: cannot read "), 0u) << error.what();
  }
  EXPECT_THROW(RoutingReplay{"/dev/zero"}, IoError) << "it would be read for ever";
  std::filesystem::create_directories(folder.path() / "empty");
  EXPECT_THROW(RoutingReplay{folder.path() / "empty"}, DataError);
}

TEST(RoutingReplay, RefusesDecisionsThatNoRouterCanTake) {
  const SharedFolder folder;
  if (test_session().world()->rank() != 0) return;
  const auto refusal = [&](const std::function<void(RoutingSample&)>& change) {
    RoutingSample sample = sample_of(kRouters, {0, 1}, {7, 9});
    change(sample);
    write_routing(folder.path() / "forged.h5", sample);
    return refused([&] { RoutingReplay(folder.path() / "forged.h5"); });
  };
  const auto experts = [&](const std::vector<int32_t>& chosen) {
    return refusal([&](RoutingSample& sample) { sample.routers[kRouters[1]].experts = chosen; });
  };
  EXPECT_EQ(experts({0, 7, 1, 2}), "");
  EXPECT_NE(experts({0, 8, 1, 2}).find("layers.1.moe.router, token 0: expert 8 of 8"), std::string::npos);
  EXPECT_NE(experts({0, 1, -1, 2}).find("token 1: expert -1 of 8"), std::string::npos) << "softmax always chooses";
  EXPECT_NE(experts({0, 1, 2, 2}).find("token 1: expert 2 is there twice"), std::string::npos);
  EXPECT_NE(refusal([](RoutingSample& sample) { sample.tokens[0] = -1; }).find("token (-1) must be at least 0"), std::string::npos);
  EXPECT_NE(refusal([](RoutingSample& sample) { sample.choices = 1; }).find("2 places a token, and not 1"), std::string::npos);
  EXPECT_NE(refusal([](RoutingSample& sample) { sample.router_kind = "expert_choice"; }).find("2 places a token, and not 8"),
            std::string::npos);
}

// Steps that are done again belong to whoever does them: files of ranks that are no more would be second recordings of the same tokens.
TEST(RoutingLog, AStepDoneAgainReplacesWhatAllRanksRecordedOfIt) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  TrainConfig config = recorded_config(folder, "run");
  config.log.routing = {.every_steps = 1, .tokens = 56};
  config.checkpoint.every_steps = 2;
  config.checkpoint.at_end = false;
  config.train.steps = 3;
  train(config, ranks);
  config.checkpoint.resume = "auto";
  config.train.steps = 4;
  const Decisions both = train(config, 1);
  EXPECT_EQ(both.size(), 4u * 2u * 56u) << "each step once: read_decisions fails where a token is there twice";
  EXPECT_NO_THROW(RoutingReplay{config.run.directory / "routing"});
}

TEST(RoutingLog, WhatCannotBeRecordedIsAnAlarmAndEndsNothing) {
  const SharedFolder folder;
  const auto world = test_session().world();
  TrainConfig config = recorded_config(folder, "run");
  const auto file = config.run.directory / "routing" / concat("step-00000002-rank-", padded(world->size() - 1, 4), ".h5");
  if (world->rank() == 0) std::filesystem::create_directories(file.string() + ".tmp");
  world->barrier();
  config.log.routing.tokens = 56;  // some of each rank
  config.train.micro_batch = micro_batch_for_two_steps(world->size());
  {
    const auto mesh = world_mesh(config.mesh, config.model.moe.experts);
    Logger log(1);
    // After the beginning, which clears the folder.
    Trainer trainer(config, *mesh, log, nullptr);
    if (world->rank() == 0) std::filesystem::create_directories(file);
    world->barrier();
    EXPECT_EQ(trainer.run(), TrainOutcome::kComplete);
  }
  world->barrier();
  const auto lines = split(read_file(config.run.directory / "metrics.jsonl"), '\n');
  EXPECT_NE(lines[1].find("step 2: routing decisions were not recorded: rank "), std::string::npos) << lines[1];
  EXPECT_EQ(lines[3].find("not recorded"), std::string::npos) << lines[3];
  EXPECT_FALSE(std::filesystem::exists(file.string() + ".tmp"));
  EXPECT_FALSE(std::filesystem::exists(file.string() + ".sha256"));
}

TEST(RoutingLog, AFolderThatCannotBeIsToldAtTheStart) {
  const SharedFolder folder;
  const TrainConfig config = recorded_config(folder, "run");
  if (test_session().world()->rank() == 0) {
    std::filesystem::create_directories(config.run.directory);
    replace_file(config.run.directory / "routing", "a file");
  }
  test_session().world()->barrier();
  const auto mesh = world_mesh(config.mesh, config.model.moe.experts);
  Logger log(1);
  EXPECT_THROW(Trainer(config, *mesh, log, nullptr), IoError);
}

}  // namespace
}  // namespace pimoe
