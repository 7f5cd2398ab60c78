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
#include <nlohmann/json.hpp>

#include <functional>
#include <map>
#include <set>
#include <tuple>

namespace pimoe {
namespace {

/// (step, router, token) -> experts
using Decisions = std::map<std::tuple<int64_t, std::string, int64_t>, std::vector<int32_t>>;

Decisions read_decisions(const std::filesystem::path& folder) {
  Decisions found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".h5" || !entry.is_regular_file()) continue;
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
  world->patient_barrier();
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
      .step = 2, .router_kind = "softmax", .expert_count = 8, .choices = 2, .tokens = tokens, .token_ids = ids, .routers = {}};
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

MoeConfig moe_of(RouterKind kind, int64_t experts, int64_t choices) {
  MoeConfig moe;
  moe.experts = experts;
  moe.choices = choices;
  moe.router.kind = kind;
  return moe;
}

/// As `sample_of`, of a model with expert choice: expert 1 alone took the token.
RoutingSample expert_choice_sample(int64_t experts, int64_t choices) {
  RoutingSample sample = sample_of({kRouters[0]}, {0}, {7});
  sample.router_kind = "expert_choice";
  sample.expert_count = experts;
  sample.choices = choices;
  RoutingDecisions& decisions = sample.routers[kRouters[0]];
  decisions.choices = experts;
  decisions.experts.assign(static_cast<size_t>(experts), -1);
  decisions.experts[1] = 1;
  decisions.weights.assign(static_cast<size_t>(experts), 0.5);
  return sample;
}

void expect_has(const std::string& text, const std::string& part) { EXPECT_NE(text.find(part), std::string::npos) << text; }

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
  const auto refused_by = [](const RoutingReplay& replay, const std::vector<std::string>& routers, const MoeConfig& moe) {
    return refused([&] { replay.require_fits(routers, moe); });
  };
  const MoeConfig same = moe_of(RouterKind::kSoftmax, 8, 2);
  EXPECT_EQ(refused_by(good, kRouters, same), "");
  expect_has(refused_by(good, {kRouters[0]}, same), "which this model does not have");
  expect_has(refused_by(good, {kRouters[0], "layers.2.moe.router"}, same), "no decisions of layers.2");
  expect_has(refused_by(good, kRouters, moe_of(RouterKind::kSoftmax, 8, 3)),
             "good/a.h5 was recorded of another model: layers.0.moe.router had 2 choices, and model.moe.choices is 3");
  expect_has(refused_by(good, kRouters, moe_of(RouterKind::kSoftmax, 16, 2)), "had 8 experts, and model.moe.experts is 16");
  expect_has(refused_by(good, kRouters, moe_of(RouterKind::kSigmoid, 8, 2)),
             "layers.0.moe.router was of kind softmax, and model.moe.router.kind is sigmoid");

  // A token has as many places with expert choice as with K = E: the kind tells them apart, and what each expert takes.
  write("experts/a.h5", expert_choice_sample(4, 2));
  const RoutingReplay by_experts(folder.path() / "experts");
  EXPECT_EQ(refused_by(by_experts, {kRouters[0]}, moe_of(RouterKind::kExpertChoice, 4, 2)), "");
  expect_has(refused_by(by_experts, {kRouters[0]}, moe_of(RouterKind::kSoftmax, 4, 4)), "was of kind expert_choice");
  expect_has(refused_by(by_experts, {kRouters[0]}, moe_of(RouterKind::kExpertChoice, 4, 1)), "had 2 choices, and model.moe.choices is 1");

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

TEST(RoutingReplay, RefusesWhatNoRouterDecides) {
  const SharedFolder folder;
  if (test_session().world()->rank() != 0) return;
  const auto refused_of = [&](const RoutingSample& sample) {
    write_routing(folder.path() / "a.h5", sample);
    return refused([&] { RoutingReplay(folder.path() / "a.h5"); });
  };
  const auto changed = [](const std::function<void(RoutingSample&)>& change) {
    RoutingSample sample = sample_of({kRouters[0]}, {0, 1}, {7, 9});
    change(sample);
    return sample;
  };
  EXPECT_EQ(refused_of(changed([](RoutingSample&) {})), "");
  EXPECT_EQ(refused_of(expert_choice_sample(4, 2)), "");
  const auto third_expert = [&](int32_t expert) {
    return changed([expert](RoutingSample& sample) { sample.routers[kRouters[0]].experts[2] = expert; });
  };
  expect_has(refused_of(third_expert(-1)), "layers.0.moe.router: expert -1 of token 1 must be in [0, 8)");
  expect_has(refused_of(third_expert(8)), "layers.0.moe.router: expert 8 of token 1 must be in [0, 8)");
  expect_has(refused_of(third_expert(5)), "layers.0.moe.router: token 1 has expert 5 twice");
  expect_has(refused_of(changed([](RoutingSample& sample) { sample.tokens[0] = -3; })), "token (-3) must be at least 0");
  expect_has(refused_of(changed([](RoutingSample& sample) { sample.tokens[0] = 1; })), "token 1 of step 2 is recorded a second time");
  expect_has(refused_of(changed([](RoutingSample& sample) { sample.choices = 3; })), "has 2 experts a token, and must have 3");
  RoutingSample by_experts = expert_choice_sample(4, 2);
  by_experts.routers[kRouters[0]].experts[3] = 1;
  expect_has(refused_of(by_experts), "token 0 has expert 1 twice");
  by_experts.routers[kRouters[0]].experts[3] = -2;
  expect_has(refused_of(by_experts), "expert -2 of token 0 must be in [0, 4), or -1 for none");
}

TEST(RoutingReplay, OfExpertChoiceIsForExpertChoiceAlone) {
  const SharedFolder folder;
  TrainConfig config = recorded_config(folder, "recorded");
  config.model.moe.router.kind = RouterKind::kExpertChoice;
  const Decisions recorded = train(config, 1);
  config.model.moe.router.replay = folder.path() / "recorded/routing";
  config.run.directory = folder.path() / "replayed";
  EXPECT_EQ(train(config, test_session().world()->size()), recorded);
  if (test_session().world()->rank() != 0) return;
  config.model.moe.router.kind = RouterKind::kSoftmax;
  config.model.moe.choices = config.model.moe.experts;
  expect_has(refused([&] {
               Logger log(1);
               const auto mesh = single_mesh(config.mesh, 8);
               Trainer(config, *mesh, log, nullptr);
             }),
             "layers.0.moe.router was of kind expert_choice, and model.moe.router.kind is softmax");
}

/// The alarms of each step that has any.
std::map<int64_t, std::string> alarms_of(const std::filesystem::path& run) {
  std::map<int64_t, std::string> found;
  for (const auto& record : records_in(run / "metrics.jsonl")) {
    if (record.contains("alarms")) found[record["step"]] = record["alarms"].dump();
  }
  return found;
}

std::set<std::string> names_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

/// Trains on the job's first `ranks` ranks, from the run's own checkpoint if there is one; every step is recorded, all of its 56 tokens.
void train_on(TrainConfig config, int ranks) {
  config.log.routing = {.every_steps = 1, .tokens = 56};
  config.checkpoint.resume = "auto";
  train(config, ranks);
}

std::string file_of(int64_t step, int rank) { return concat("step-", padded(step, 8), "-rank-", padded(rank, 4), ".h5"); }

TEST(RoutingLog, WhatCannotBeWrittenOnARankIsAnAlarmAndTheRunGoesOn) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  const TrainConfig config = recorded_config(folder, "run");
  const auto routing = config.run.directory / "routing";
  const std::string in_the_way = file_of(2, ranks - 1);
  if (ranks == 1 || test_session().world()->rank() == 1) std::filesystem::create_directories(routing / in_the_way);
  test_session().world()->patient_barrier();
  train_on(config, ranks);
  const auto alarms = alarms_of(config.run.directory);
  ASSERT_EQ(alarms.size(), 1u);
  EXPECT_EQ(alarms.begin()->first, 2);
  expect_has(alarms.at(2), concat("step 2: routing decisions were not recorded: rank ", ranks - 1, ": cannot write "));
  std::set<std::string> expected = {in_the_way};
  for (int64_t step = 1; step <= 4; ++step) {
    for (int rank = 0; rank < ranks; ++rank) {
      if (file_of(step, rank) != in_the_way) expected.insert({file_of(step, rank), file_of(step, rank) + ".sha256"});
    }
  }
  EXPECT_EQ(names_in(routing), expected) << "and nothing temporary";
}

TEST(RoutingLog, AFolderThatCannotBeMadeIsToldAtTheStart) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  TrainConfig config = recorded_config(folder, "run");
  if (test_session().world()->rank() == 0) {
    std::filesystem::create_directories(config.run.directory);
    replace_file(config.run.directory / "routing", "mine");
  }
  const auto mesh = sub_mesh(ranks, config.mesh, config.model.moe.experts);
  Logger log(1);
  try {
    Trainer(config, *mesh, log, nullptr);
    ADD_FAILURE() << "must be refused";
  } catch (const IoError& error) {
    expect_has(error.what(), "log.routing.every_steps (2): cannot make the folder ");
  }
}

TEST(RoutingLog, AStepThatIsDoneAgainIsRecordedOnceOnOtherRanksToo) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  TrainConfig config = recorded_config(folder, "run");
  config.train.steps = 5;
  config.checkpoint.every_steps = 3;
  config.checkpoint.at_end = false;
  train_on(config, ranks);
  const auto routing = config.run.directory / "routing";
  if (test_session().world()->rank() == 0) {
    replace_file(routing / (file_of(5, 0) + ".tmp-17"), "what a kill left");
    replace_file(routing / "mine-step-00000005-rank-0000.h5.txt", "not ours to remove");
  }
  train_on(config, 1);  // from step 3
  for (const std::string& name : names_in(routing)) {
    if (name.starts_with("mine")) continue;
    EXPECT_TRUE(name <= "step-00000004" || name.find("-rank-0000.h5") != std::string::npos) << name;
    EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
  }
  EXPECT_EQ(names_in(routing).size(), 2u * (3u * static_cast<size_t>(ranks) + 2u) + 1u);
  EXPECT_EQ(RoutingReplay(routing).steps(), "steps 1 to 5");

  // Its own recordings go when steps are done again: a run cannot take its decisions from them.
  test_session().world()->patient_barrier();
  if (test_session().world()->rank() != 0) return;
  config.model.moe.router.replay = routing;
  config.checkpoint.resume = "auto";
  const auto mesh = single_mesh(config.mesh, 8);
  Logger log(1);
  EXPECT_THROW(Trainer(config, *mesh, log, nullptr), ConfigError);
  EXPECT_EQ(RoutingReplay(routing).steps(), "steps 1 to 5");
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
  const std::vector<int64_t> recorded = read_routing(file).token_ids;
  const at::Tensor ids = at::tensor(std::vector<int64_t>(recorded.begin(), recorded.begin() + 4), at::kLong);
  EXPECT_THROW(replay.apply("layers.0.moe.router", 1, 0, 8, ids, one), DataError);
  EXPECT_THROW(replay.apply("layers.0.moe.router", 1, 0, 1, ids, two), DataError);
  EXPECT_THROW(replay.apply("layers.9.moe.router", 1, 0, 8, ids, two), DataError);
  EXPECT_THROW(replay.apply("layers.0.moe.router", 1, 0, 8, ids + 1, two), DataError);
  EXPECT_NO_THROW(replay.apply("layers.0.moe.router", 1, 0, 8, ids, two));
  EXPECT_TRUE(replay.apply("layers.0.moe.router", 0, 0, 1, ids, two).equal(two)) << "another step";
  EXPECT_TRUE(replay.apply("layers.0.moe.router", 1, 37, 1, ids, two).equal(two)) << "other tokens";

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
