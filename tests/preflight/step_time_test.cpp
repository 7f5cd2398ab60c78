#include "preflight/step_time.h"

#include "base/errors.h"
#include "preflight/sweep.h"
#include "support/temporary_folder.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace pimoe {
namespace {

TrainConfig config_of(int64_t experts = 8) {
  TrainConfig config;
  config.model.layers = 2;
  config.model.width = 64;
  config.model.heads = 4;
  config.model.kv_heads = 2;
  config.model.sequence_length = 128;
  config.model.vocabulary = 1000;
  config.model.moe.experts = experts;
  config.model.moe.choices = 2;
  config.model.moe.expert_width = 48;
  config.train.global_batch = 16;
  config.train.micro_batch = 4;
  config.train.precision = Precision::kBfloat16;
  return config;
}

DeviceRates rates() {
  DeviceRates rates;
  rates.product = 1e12;
  rates.grouped_product = 2e12;
  rates.head = 4e12;
  rates.wide_product = 1e11;
  rates.attention = 5e11;
  rates.copy = 1e11;
  rates.link = 1e10;
  rates.network = 1e9;
  rates.message = 1e-5;
  return rates;
}

double seconds_of(const StepTimeForecast& time, const std::string& name) {
  for (const TimedWork& work : time.parts) {
    if (work.name == name) return work.seconds;
  }
  return 0.0;
}

ForecastPlace one_rank() { return {.ranks = 1, .node_ranks = 1, .dtype = at::kBFloat16}; }

// T = 16 x 128 = 2048 tokens, two layers, D = 64, d = 16.
TEST(StepTime, EachPartIsItsWorkOverItsRate) {
  const StepTimeForecast time = step_time(config_of(), one_rank(), rates(), 1.0);
  EXPECT_DOUBLE_EQ(seconds_of(time, "attention's projections"), 6.0 * 2048 * 2 * 64 * 16 * (2 * 4 + 2 * 2) / 1e12);
  EXPECT_DOUBLE_EQ(seconds_of(time, "attention"), 7.0 * 2048 * 2 * 128 * 4 * 16 / 5e11);
  EXPECT_DOUBLE_EQ(seconds_of(time, "router"), 6.0 * 2048 * 64 * 8 * 2 / 1e11);
  EXPECT_DOUBLE_EQ(seconds_of(time, "experts"), 18.0 * 2048 * 2 * 64 * 48 * 2 / 2e12);
  EXPECT_DOUBLE_EQ(seconds_of(time, "head and cross-entropy"), 6.0 * 2048 * 64 * 1000 / 4e12);
  double sum = 0.0;
  for (const TimedWork& work : time.parts) sum += work.seconds;
  EXPECT_DOUBLE_EQ(time.seconds, sum);
  EXPECT_DOUBLE_EQ(time.tokens_per_second, 2048 / time.seconds);
  EXPECT_EQ(seconds_of(time, "exchange"), 0.0);
}

TEST(StepTime, RecomputationIsAThirdForward) {
  TrainConfig config = config_of();
  const StepTimeForecast none = step_time(config, one_rank(), rates(), 1.0);
  config.train.recompute = RecomputePolicy::kMoe;
  const StepTimeForecast moe = step_time(config, one_rank(), rates(), 1.0);
  EXPECT_DOUBLE_EQ(seconds_of(moe, "experts"), seconds_of(none, "experts") * 4 / 3);
  EXPECT_DOUBLE_EQ(seconds_of(moe, "attention"), seconds_of(none, "attention"));
  config.train.recompute = RecomputePolicy::kFull;
  EXPECT_DOUBLE_EQ(seconds_of(step_time(config, one_rank(), rates(), 1.0), "attention"), seconds_of(none, "attention") * 9 / 7);
}

TEST(StepTime, RanksShareOutTheWorkAndPayForLinks) {
  TrainConfig config = config_of();
  ForecastPlace place{.ranks = 4, .node_ranks = 4, .on_gpu = true, .dtype = at::kBFloat16};
  const StepTimeForecast one = step_time(config, one_rank(), rates(), 1.0);
  config.mesh.expert_parallel = 4;
  const StepTimeForecast four = step_time(config, place, rates(), 1.0);
  EXPECT_DOUBLE_EQ(seconds_of(four, "experts"), seconds_of(one, "experts") / 4);
  EXPECT_GT(seconds_of(four, "exchange"), 0.0);
  EXPECT_GT(four.hidden_seconds, 0.0);
  place.node_ranks = 2;  // the expert group no longer fits into a node
  EXPECT_GT(seconds_of(step_time(config, place, rates(), 1.0), "exchange"), 2 * seconds_of(four, "exchange of rows"));
  // The step waits for the fullest rank.
  EXPECT_DOUBLE_EQ(seconds_of(step_time(config, place, rates(), 2.0), "experts"), 2 * seconds_of(four, "experts"));
}

TEST(StepTime, AHostThatIsSlowerThanTheDeviceIsWaitedFor) {
  ForecastPlace place = one_rank();
  place.on_gpu = true;
  DeviceRates slow = rates();
  slow.operation = 1e-9;
  EXPECT_EQ(seconds_of(step_time(config_of(), place, slow, 1.0), "waiting for the host"), 0.0);
  slow.operation = 1e-3;
  EXPECT_EQ(step_time(config_of(), place, slow, 1.0).bottleneck().name, "waiting for the host");
}

TEST(StepTime, NothingRunsAheadOfACpu) {
  DeviceRates slow = rates();
  slow.operation = 1e-6;
  // 4 micro-steps of 2 layers.
  EXPECT_DOUBLE_EQ(seconds_of(step_time(config_of(), one_rank(), slow, 1.0), "starting operations"), (110 * 2 + 60) * 4 * 1e-6);
}

// H = 4, KV = 2, d = 16, two layers: 128 numbers of queries, keys and values; 2048 tokens of two bytes.
TEST(StepTime, NormsOfQueriesAndKeysTakeTimeToo) {
  TrainConfig config = config_of();
  for (const bool on_gpu : {false, true}) {
    ForecastPlace place = one_rank();
    place.on_gpu = on_gpu;
    config.model.qk_norm = false;
    const double without = seconds_of(step_time(config, place, rates(), 1.0), "norms, residuals, positions");
    config.model.qk_norm = true;
    const double with = seconds_of(step_time(config, place, rates(), 1.0), "norms, residuals, positions");
    EXPECT_NEAR(with - without, 2048.0 * 2 * 2 * 128 / 1e11, 1e-12);
  }
}

TEST(StepTime, ALeanLayerInsideOfARecomputedRegionComputesTwiceMore) {
  TrainConfig config = config_of();
  const double once = seconds_of(step_time(config, one_rank(), rates(), 1.0), "experts");
  config.train.recompute = RecomputePolicy::kFull;
  config.model.moe.memory = MoeMemory::kLean;
  EXPECT_DOUBLE_EQ(seconds_of(step_time(config, one_rank(), rates(), 1.0), "experts"), once * 5 / 3);
}

// 16 ranks on two nodes: of the 15 others that a rank sends rows to, 7 are in its node, and 8 outside, over slower links.
TEST(StepTime, RowsForTheOwnNodeDoNotWaitForTheNetwork) {
  TrainConfig config = config_of(/*experts=*/16);
  config.mesh.expert_parallel = 16;
  const ForecastPlace place{.ranks = 16, .node_ranks = 8, .on_gpu = true, .dtype = at::kBFloat16};
  const double calls = 2 * 1 * 8 * rates().message;  // layers, micro-steps of a sequence; tokens travel
  const double sent = static_cast<double>(Forecast(config, place).traffic().rows);
  EXPECT_NEAR(seconds_of(step_time(config, place, rates(), 1.0), "exchange"), sent * 8 / 15 / rates().network + calls, 1e-9);
}

// Sums of dense weights go round all 16 ranks, by eight rings at once; those of an expert round its two copies, by one way between the nodes.
TEST(StepTime, RingsBetweenNodesUseTheWayOutOfEachRank) {
  TrainConfig config = config_of();
  config.mesh.expert_parallel = 8;
  const ForecastPlace place{.ranks = 16, .node_ranks = 8, .on_gpu = true, .dtype = at::kBFloat16};
  const auto [dense, experts] = Forecast(config, place).rings();
  EXPECT_EQ(dense.ranks, 16);
  EXPECT_EQ(experts.ranks, 2);
  EXPECT_EQ(experts.stride, 8);
  const double gathered =
      static_cast<double>(dense.weights) / (8 * rates().network) + static_cast<double>(experts.weights) / rates().network;
  EXPECT_NEAR(seconds_of(step_time(config, place, rates(), 1.0), "weights to ranks"), gathered + 2 * rates().message, 1e-9);
}

TEST(StepTime, ADenseModelHasNoRouterAndNoExperts) {
  const StepTimeForecast time = step_time(config_of(/*experts=*/0), one_rank(), rates(), 1.0);
  EXPECT_EQ(seconds_of(time, "router") + seconds_of(time, "experts") + seconds_of(time, "moves of rows"), 0.0);
  EXPECT_GT(seconds_of(time, "dense feed-forward"), 0.0);
}

TEST(Sweep, LeavesOutWhatDoesNotFitAndPutsTheFastestFirst) {
  const TrainConfig config = config_of();
  const ForecastPlace place{.ranks = 4, .node_ranks = 4, .dtype = at::kBFloat16};
  const auto all = sweep(config, place, rates(), kWorstSkew, /*limit_bytes=*/0);
  ASSERT_EQ(all.size(), 3u * 3u * 3u);  // expert_parallel 1, 2, 4; 1, 2, 4 sequences at once; three policies
  for (size_t i = 1; i < all.size(); ++i) EXPECT_LE(all[i - 1].time.seconds, all[i].time.seconds);
  int64_t most = 0;
  for (const SweptLayout& layout : all) most = std::max(most, layout.peak);
  const auto some = sweep(config, place, rates(), kWorstSkew, most - 1);
  EXPECT_LT(some.size(), all.size());
  for (const SweptLayout& layout : some) EXPECT_LT(layout.peak, most);
}

class RatesFile : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) const { return folder_.write("ceilings.json", text); }
  TemporaryFolder folder_;
};

TEST_F(RatesFile, TakesTheMedianOfEachCeiling) {
  const auto file = write(R"({"machine": {"precision": "bfloat16", "device": "AMD EPYC", "gpu": null, "hosts": 1, "ranks": 2}, "rows": [
    {"suite": "ceilings", "name": "gemm float32", "tflops": 0.1}, {"suite": "ceilings", "name": "projections", "tflops": 0.5, "best_tflops": 9},
    {"suite": "ceilings", "name": "projections", "tflops": 0.6}, {"suite": "ceilings", "name": "attention", "tflops": 0.2},
    {"suite": "ceilings", "name": "experts", "tflops": 0.4}, {"suite": "ceilings", "name": "head", "tflops": 0.3},
    {"suite": "ceilings", "name": "copy", "gigabytes_per_second": 10}, {"suite": "layer", "name": "copy", "gigabytes_per_second": 99},
    {"suite": "ceilings", "name": "all_to_all 1 MiB", "gigabytes_per_second": 2}]})");
  const DeviceRates read = read_rates(file, "bfloat16", std::nullopt);
  EXPECT_DOUBLE_EQ(read.product, 0.6e12);
  EXPECT_DOUBLE_EQ(read.grouped_product, 0.4e12);
  EXPECT_DOUBLE_EQ(read.copy, 10e9);
  EXPECT_DOUBLE_EQ(read.link, 2e9);
  EXPECT_GT(read.operation, 0.0);
}

TEST_F(RatesFile, NamesWhatIsMissing) {
  const auto file = write(R"({"machine": {"precision": "bfloat16", "gpu": null, "hosts": 1, "ranks": 1}, "rows": []})");
  EXPECT_DOUBLE_EQ(read_rates(file, "bfloat16", shipped_rates("h200", "bfloat16")).product, shipped_rates("h200", "bfloat16")->product);
  try {
    read_rates(file, "bfloat16", std::nullopt);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("projections"), std::string::npos) << error.what();
  }
  EXPECT_THROW(read_rates(write("[1, 2"), "bfloat16", std::nullopt), DataError);
  EXPECT_THROW(read_rates(write(R"({"machine": 5, "rows": [1]})"), "bfloat16", std::nullopt), DataError);
  EXPECT_THROW(read_rates(write(R"({"machine": {"precision": "float32"}, "rows": []})"), "bfloat16", std::nullopt), DataError);
  EXPECT_THROW(read_rates(write(R"({"machine": {"precision": "bfloat16"}, "rows": [{"suite": "ceilings", "name": "copy",
    "gigabytes_per_second": 1e300}]})"),
                          "bfloat16", shipped_rates("h200", "bfloat16")),
               DataError);
  EXPECT_FALSE(shipped_rates("h100", "float32").has_value());
  EXPECT_THROW(read_rates(folder_.path() / "nothing.json", "bfloat16", std::nullopt), IoError);
}

}  // namespace
}  // namespace pimoe
