#include "base/text.h"
#include "train/tiny_run.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

namespace pimoe {
namespace {

/// Half of the samples come from a corpus that is a ninth of the others.
TrainConfig blend_config(const SharedFolder& folder, const std::string& run) {
  TrainConfig config = tiny_config(folder, run);
  config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
  config.data.train.clear();
  config.data.blend = {{(folder.path() / "validation").string(), 0.5},
                       {(folder.path() / "corpus").string(), 0.3},
                       {(folder.path() / "repeats").string(), 0.2}};
  config.train.global_batch = 31;  // does not divide evenly among 2, 3 or 4 ranks
  config.checkpoint.resume = "auto";
  return config;
}

/// Trains up to `steps` on the first `ranks` ranks of the job; the others wait. @returns the records of the run so far
std::vector<nlohmann::json> train_up_to(int64_t steps, TrainConfig config, int ranks) {
  const auto world = test_session().world();
  config.mesh.expert_parallel = ranks;
  config.train.steps = steps;
  config.train.micro_batch = (config.train.global_batch + 2 * ranks - 1) / (2 * ranks);  // two micro-steps in every layout
  config.optimizer.schedule = Schedule::kConstant;
  const auto mesh = sub_mesh(ranks, config.mesh, config.model.moe.experts);
  if (world->rank() < ranks) {
    Logger log(1);
    EXPECT_EQ(Trainer(config, *mesh, log, nullptr).run(), TrainOutcome::kComplete);
  }
  world->patient_barrier();
  const std::vector<nlohmann::json> records = records_of(config);
  world->patient_barrier();
  return records;
}

TEST(BlendRanks, ARunGoesOnAtAnotherRankCountInTheMiddleOfAnEpochWithTheSameLosses) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  const auto whole = train_up_to(26, blend_config(folder, "whole"), 1);
  train_up_to(13, blend_config(folder, "parts"), ranks);
  const auto parts = train_up_to(26, blend_config(folder, "parts"), 1);
  const auto back = train_up_to(13, blend_config(folder, "back"), 1);
  const auto shared = train_up_to(26, blend_config(folder, "back"), ranks);
  ASSERT_EQ(whole.size(), 26u);
  ASSERT_EQ(parts.size(), 26u);
  ASSERT_EQ(shared.size(), 26u);
  for (size_t step = 0; step < 26; ++step) {
    const double loss = whole[step].at("loss");
    EXPECT_NEAR(parts[step].at("loss").get<double>(), loss, 1e-10 * loss) << "step " << step + 1;
    EXPECT_NEAR(shared[step].at("loss").get<double>(), loss, 1e-10 * loss) << "step " << step + 1;
    EXPECT_EQ(parts[step].at("data/epochs"), whole[step].at("data/epochs"));
  }
  const auto epochs = back.back().at("data/epochs").get<std::vector<double>>();
  ASSERT_EQ(epochs.size(), 3u);
  EXPECT_GT(epochs[0], 1.0) << "the small corpus was begun again";
  EXPECT_GT(std::fabs(epochs[0] - std::round(epochs[0])), 1e-3) << "and is in the middle";
  EXPECT_LT(epochs[1], 1.0);
}

TEST(BlendRanks, ABlendOfOneCorpusIsThatCorpus) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  TrainConfig one = blend_config(folder, "one");
  one.data.blend = {{(folder.path() / "corpus").string(), 0.3}};
  TrainConfig plain = blend_config(folder, "plain");
  plain.data.train = one.data.blend[0].prefix;
  plain.data.blend.clear();
  const auto of_list = train_up_to(4, one, ranks);
  const auto of_text = train_up_to(4, plain, ranks);
  ASSERT_EQ(of_list.size(), 4u);
  for (size_t step = 0; step < 4; ++step) {
    EXPECT_EQ(of_list[step].at("loss"), of_text[step].at("loss"));
    EXPECT_FALSE(of_list[step].contains("data/epochs"));
  }
}

TEST(BlendRanks, ACheckpointKnowsEachCorpus) {
  const SharedFolder folder;
  const TrainConfig config = blend_config(folder, "facts");
  train_up_to(1, config, test_session().world()->size());
  const Manifest manifest = read_manifest(find_checkpoint(config.run.directory));
  EXPECT_EQ(manifest.counters.at("next_sample"), 31);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(manifest.counters.at(concat("data.train[", i, "].tokens")), TokenFile(config.data.blend[i].prefix).token_count());
    EXPECT_GT(manifest.counters.at(concat("data.train[", i, "].fingerprint")), 0);
  }
  EXPECT_FALSE(manifest.counters.contains("data.train.tokens"));
}

}  // namespace
}  // namespace pimoe
