#include "train/metrics.h"

#include "base/text.h"
#include "train/prometheus_text.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

namespace pimoe {
namespace {

// Two layers, four experts. Loads 4 4 4 4: even. Loads 10 6 0 0: mean 4, the largest 6 above it.
TEST(RoutingMetrics, FollowTheirDefinitions) {
  const at::Tensor load = at::tensor({4, 4, 4, 4, 10, 6, 0, 0}, at::kLong).view({2, 4});
  const RoutingMetrics metrics = routing_metrics(load, 0);
  EXPECT_DOUBLE_EQ(metrics.maxvio[0], 0.0);
  EXPECT_DOUBLE_EQ(metrics.maxvio[1], 1.5);
  EXPECT_NEAR(metrics.entropy[0], 1.0, 1e-12);
  EXPECT_NEAR(metrics.entropy[1], -(0.625 * std::log(0.625) + 0.375 * std::log(0.375)) / std::log(4.0), 1e-12);
  EXPECT_DOUBLE_EQ(metrics.utilization[0], 1.0);
  EXPECT_DOUBLE_EQ(metrics.utilization[1], 0.5);
  EXPECT_EQ(metrics.dead_experts, (std::vector<double>{0, 2}));
}

/// Layers 2 and 3 of a model, each number once as a layer has it.
StepRecord two_layers() {
  StepRecord record;
  RoutingMetrics routing = routing_metrics(at::tensor({4, 4, 4, 4, 10, 6, 0, 0}, at::kLong).view({2, 4}), 2);
  routing.losses = {{BalanceRule::kSwitch, {1.0, 1.5}, {0.01, 0.015}},
                    {BalanceRule::kZ, {3, 5}, {0.003, 0.005}},
                    {BalanceRule::kSequence, {1.0, 2.0}, {0.1, 0.2}}};
  routing.scaled_loss = {0.113, 0.22};
  routing.maxvio_rank = routing.dropped_fraction = routing.gate_confidence = {0.25, 0.5};
  routing.fallback_tokens = {0, 7};
  routing.nonfinite_slots = {1, 2};
  routing.dispatch_ms = routing.experts_ms = routing.combine_ms = {0.5, 1.5};
  routing.bias_min = {-0.5, -0.25};
  routing.bias_max = {0.125, 0.5};
  record.routing = routing;
  return record;
}

TEST(StepJson, HasEveryRoutingMetricOfEachLayerAndTheWorst) {
  const StepRecord record = two_layers();
  const auto json = nlohmann::json::parse(to_json(record));
  const auto expect = [&](const std::string& key, double value, double worst, const std::vector<double>& layers) {
    ASSERT_TRUE(json.contains(key) && json.contains(key + "_worst") && json.contains(key + "_layers")) << key;
    EXPECT_DOUBLE_EQ(json.at(key), value) << key;
    EXPECT_DOUBLE_EQ(json.at(key + "_worst"), worst) << key;
    EXPECT_EQ(json.at(key + "_layers").get<std::vector<double>>(), layers) << key;
  };
  EXPECT_EQ(json.at("moe/layers"), (std::vector<int64_t>{2, 3}));
  expect("moe/maxvio", 0.75, 1.5, {0, 1.5});
  expect("moe/utilization", 0.75, 0.5, {1, 0.5});
  ASSERT_GT(record.routing->entropy[0], record.routing->entropy[1]);
  expect("moe/entropy", (record.routing->entropy[0] + record.routing->entropy[1]) / 2, record.routing->entropy[1], record.routing->entropy);
  expect("moe/dead_experts", 2, 2, {0, 2});
  expect("moe/gate_confidence", 0.375, 0.25, {0.25, 0.5});
  expect("moe/dropped_fraction", 0.375, 0.5, {0.25, 0.5});
  expect("moe/scaled_loss", 0.333, 0.22, {0.113, 0.22});
  expect("moe/fallback_tokens", 7, 7, {0, 7});
  expect("moe/nonfinite_slots", 3, 2, {1, 2});
  for (const char* key : {"moe/dispatch_ms", "moe/experts_ms", "moe/combine_ms"}) expect(key, 2, 1.5, {0.5, 1.5});
  EXPECT_EQ(json.at("moe/bias_min"), -0.5);
  EXPECT_EQ(json.at("moe/bias_min_layers"), (std::vector<double>{-0.5, -0.25}));
  EXPECT_EQ(json.at("moe/bias_max"), 0.5);
  EXPECT_EQ(json.at("moe/bias_max_layers"), (std::vector<double>{0.125, 0.5}));
}

TEST(StepJson, HasTheEpochsOfABlendsCorporaInSixDigits) {
  StepRecord record;
  EXPECT_FALSE(nlohmann::json::parse(to_json(record)).contains("data/epochs"));
  record.epochs = {1.0 / 3.0, 12.5};
  EXPECT_NE(to_json(record).find("\"data/epochs\":[0.333333,12.5]"), std::string::npos) << to_json(record);
}

TEST(StepScalars, AreTheNumbersOfTheJsonLineThatAreNoList) {
  StepRecord record = two_layers();
  record.outcome = StepOutcome::kNotFinite;
  record.mfu = 0.5;
  const auto json = nlohmann::json::parse(to_json(record));
  std::map<std::string, double> scalars;
  for (const auto& [name, value] : to_scalars(record)) EXPECT_TRUE(scalars.emplace(name, value).second) << name;
  EXPECT_EQ(scalars.at("skipped"), 1.0);
  EXPECT_EQ(scalars.at("moe/maxvio_worst"), 1.5);
  EXPECT_FALSE(scalars.contains("mfu_torchtitan")) << "it is unknown";
  for (const auto& [key, value] : json.items()) {
    if (key == "step" || key == "skipped") continue;
    EXPECT_EQ(scalars.contains(key), value.is_number()) << key;
    if (!value.is_number()) continue;
    EXPECT_DOUBLE_EQ(scalars.at(key), value.get<double>()) << key;
  }
}

TEST(StepJson, HasTheTimesOfAStepsParts) {
  StepRecord record;
  record.forward_ms = 1.5;
  record.backward_ms = 2.5;
  record.gradients_ms = 0.5;
  const auto json = nlohmann::json::parse(to_json(record));
  EXPECT_EQ(json.at("forward_ms"), 1.5);
  EXPECT_EQ(json.at("backward_ms"), 2.5);
  EXPECT_EQ(json.at("gradients_ms"), 0.5);
}

TEST(StepScalars, HaveALossThatIsNotFinite) {
  StepRecord record;
  record.loss = std::nan("");
  const Scalars scalars = to_scalars(record);
  EXPECT_EQ(scalars.at(0).first, "loss");
  EXPECT_TRUE(std::isnan(scalars.at(0).second));
}

TEST(StepJson, HasEachBalanceRuleUnscaledAndScaled) {
  const auto json = nlohmann::json::parse(to_json(two_layers()));
  EXPECT_DOUBLE_EQ(json.at("moe/balance_loss"), 1.25);
  EXPECT_DOUBLE_EQ(json.at("moe/balance_loss_scaled"), 0.025);
  EXPECT_DOUBLE_EQ(json.at("moe/z_loss"), 4);
  EXPECT_DOUBLE_EQ(json.at("moe/z_loss_scaled"), 0.008);
  EXPECT_DOUBLE_EQ(json.at("moe/sequence_loss"), 1.5);
  EXPECT_EQ(json.at("moe/sequence_loss_scaled_layers"), (std::vector<double>{0.1, 0.2}));
  for (const char* off : {"moe/step_loss", "moe/local_loss"}) EXPECT_FALSE(json.contains(off)) << off;
}

TEST(StepLine, NamesTheModelsLayer) {
  const std::string line = to_line(two_layers(), 10, 0);
  EXPECT_NE(line.find("bal 1.250"), std::string::npos) << line;
  EXPECT_NE(line.find("worst layer 3: 1.50"), std::string::npos) << line;
}

TEST(StepLine, SaysWhatAPersonNeeds) {
  StepRecord record;
  record.step = 12;
  record.loss = 3.41234;
  record.validation_loss = 3.3771;
  record.gradient_norm = 0.84;
  record.learning_rate = 9.4e-4;
  record.tokens_per_second = 41230;
  record.mfu = 0.381;
  record.memory_bytes = 61'200'000'000;
  record.activation_bytes = 1'500'000;
  const std::string line = to_line(record, 20000, 11520);
  for (const char* part : {"step    12/20000", "loss 3.4123", "val 3.3771", "norm 0.840", "lr 9.4e-04", "41,230 tok/s", "38.1 % MFU",
                           "61.2 GB (activations 1.5 MB)", "left 3h 12m"}) {
    EXPECT_NE(line.find(part), std::string::npos) << part << " in: " << line;
  }
}

// As in a step beside a save: everybody who reads the record is told the same.
TEST(StepRecord, SaysNothingOfActivationsThatCouldNotBeMeasured) {
  StepRecord record;
  record.memory_bytes = 61'200'000'000;
  EXPECT_NE(to_json(record).find("\"activation_bytes\":null"), std::string::npos);
  for (const auto& [key, value] : to_scalars(record)) EXPECT_NE(key, "activation_bytes");
  EXPECT_EQ(to_prometheus(record, {}).find("activation"), std::string::npos);
  EXPECT_NE(to_line(record, 20000, 11520).find("61.2 GB  left"), std::string::npos);
  record.activation_bytes = 7;
  EXPECT_NE(to_json(record).find("\"activation_bytes\":7"), std::string::npos);
}

}  // namespace
}  // namespace pimoe
