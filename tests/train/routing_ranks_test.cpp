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
  RoutingSample sample{.step = 2, .expert_count = 8, .tokens = tokens, .token_ids = ids, .routers = {}};
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
  EXPECT_EQ(refused([&] { good.require_fits(kRouters, 2, 8); }), "");
  EXPECT_NE(refused([&] { good.require_fits({kRouters[0]}, 2, 8); }).find("which this model does not have"), std::string::npos);
  EXPECT_NE(refused([&] {
              good.require_fits({kRouters[0], "layers.2.moe.router"}, 2, 8);
            }).find("no decisions of layers.2"),
            std::string::npos);
  EXPECT_NE(refused([&] { good.require_fits(kRouters, 3, 8); }).find("2 experts a token, and here a token has 3"), std::string::npos);
  EXPECT_NE(refused([&] { good.require_fits(kRouters, 2, 16); }).find("it had 8 experts, and model.moe.experts is 16"), std::string::npos);

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
