#include "train/step_sums.h"

#include "moe/load_statistics.h"
#include "train/tiny_run.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

namespace pimoe {
namespace {

constexpr int64_t kLayers = 2;
constexpr int64_t kMicroSteps = 2;
constexpr int64_t kExperts = 8;
constexpr double kTokens = 40.0;
const BalanceConfig kAll{.switch_loss = 0.5, .sequence_loss = 0.25, .step_loss = 0.125, .local_loss = 2.0, .z_loss = 0.1};

// What a rank saw in a micro-step of a layer: numbers that tell ranks, micro-steps, layers and quantities apart.
struct Seen {
  int64_t rank, micro_step, layer;

  int64_t load(int64_t expert) const { return 1 + (5 * rank + 3 * micro_step + 2 * layer + expert * expert) % 7; }
  double probability(int64_t expert) const { return 0.25 + 0.5 * static_cast<double>((rank + micro_step + 3 * layer + 2 * expert) % 5); }
  double z() const { return 3.0 + static_cast<double>(rank + 10 * layer + micro_step); }
  double sequence() const { return 7.0 + static_cast<double>(2 * rank + layer + 5 * micro_step); }
  double confidence() const { return 0.5 + static_cast<double>(rank + 2 * layer + 4 * micro_step); }
  int64_t dropped() const { return 1 + rank + layer + 2 * micro_step; }
  int64_t fallback() const { return 10 + 3 * rank + layer + micro_step; }
  int64_t nonfinite() const { return 100 + 2 * rank + 5 * layer + micro_step; }
  int64_t rows() const { return 4 + 9 * rank * rank + layer + micro_step; }

  RoutingRecord record() const {
    RoutingRecord made;
    std::vector<int64_t> loads;
    std::vector<double> probabilities;
    for (int64_t expert = 0; expert < kExperts; ++expert) {
      loads.push_back(load(expert));
      probabilities.push_back(probability(expert));
    }
    const auto scalar = [](auto value) { return at::tensor(value).squeeze(); };
    made.load = at::tensor(loads, at::kLong);
    made.probability_sum = at::tensor(probabilities, at::kDouble);
    made.z_sum = scalar(z());
    made.sequence_balance = scalar(sequence());
    made.confidence_sum = scalar(confidence());
    made.dropped = scalar(dropped());
    made.fallback = scalar(fallback());
    made.nonfinite = scalar(nonfinite());
    made.rows = scalar(rows());
    return made;
  }
};

class StepSumsTest : public ::testing::Test {
 protected:
  static TrainConfig config(const SharedFolder& folder) {
    TrainConfig made = tiny_config(folder, "run");
    made.model.layers = kLayers + 1;
    made.model.moe.first_dense_layers = 1;
    made.model.moe.balance = kAll;
    return made;
  }

  double over_all(int64_t layer, const std::function<double(const Seen&)>& number) const {
    double sum = 0.0;
    for (int64_t micro_step = 0; micro_step < kMicroSteps; ++micro_step) {
      for (int64_t rank = 0; rank < ranks_; ++rank) sum += number(Seen{rank, micro_step, layer});
    }
    return sum;
  }

  /// E * sum_i f_i * P_i over all ranks and micro-steps, f from the loads of those that `counts` names for a (rank, micro-step).
  double balance(int64_t layer, const std::function<bool(const Seen& of, const Seen& other)>& counts) const {
    return over_all(layer, [&](const Seen& of) {
      std::vector<double> load(kExperts, 0.0);
      double slots = 0.0;
      over_all(layer, [&](const Seen& other) {
        for (int64_t expert = 0; counts(of, other) && expert < kExperts; ++expert) {
          load[static_cast<size_t>(expert)] += static_cast<double>(other.load(expert));
          slots += static_cast<double>(other.load(expert));
        }
        return 0.0;
      });
      double sum = 0.0;
      for (int64_t expert = 0; expert < kExperts; ++expert) sum += load[static_cast<size_t>(expert)] / slots * of.probability(expert);
      return kExperts * sum / kTokens;
    });
  }

  int64_t ranks_ = test_session().world()->size();
};

TEST_F(StepSumsTest, AreThoseOfALoopOverRanksAndMicroSteps) {
  const SharedFolder folder;
  const TrainConfig made = config(folder);
  const auto mesh = world_mesh(made.mesh, kExperts);
  const Transformer model(made.model, at::kDouble, *mesh);
  StepSums sums(model, *mesh, kTokens, kTokens, kAll);
  for (int64_t micro_step = 0; micro_step < kMicroSteps; ++micro_step) {
    Prediction prediction{.cross_entropy_sum = at::tensor(2.0 + static_cast<double>(mesh->rank()), at::kDouble), .routing = {}};
    for (int64_t layer = 0; layer < kLayers; ++layer) prediction.routing.push_back(Seen{mesh->rank(), micro_step, layer}.record());
    sums.add(prediction, balance_terms(prediction.routing, kAll, kTokens, sums.load(), mesh->group(Group::kBatch)));
  }
  StepRecord record;
  const std::vector<at::Tensor> biases = {at::tensor({-0.5, 0.25}, at::kDouble), at::tensor({-0.125, 1.5}, at::kDouble)};
  sums.finish(record, biases);

  double cross_entropy = 0.0;
  for (int64_t rank = 0; rank < ranks_; ++rank) cross_entropy += kMicroSteps * (2.0 + static_cast<double>(rank));
  EXPECT_NEAR(record.loss, cross_entropy / kTokens, 1e-14);
  ASSERT_TRUE(record.routing.has_value());
  const RoutingMetrics& got = *record.routing;
  EXPECT_EQ(got.layers, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(got.bias_min, (std::vector<double>{-0.5, -0.125}));
  EXPECT_EQ(got.bias_max, (std::vector<double>{0.25, 1.5}));
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const auto of_layer = [layer](const auto& layers) { return layers[static_cast<size_t>(layer)]; };
    double slots = 0.0;
    for (int64_t expert = 0; expert < kExperts; ++expert) {
      const double load = over_all(layer, [&](const Seen& seen) { return static_cast<double>(seen.load(expert)); });
      EXPECT_EQ(static_cast<double>(of_layer(got.load)[static_cast<size_t>(expert)]), load);
      slots += load;
    }
    EXPECT_NEAR(of_layer(got.gate_confidence), over_all(layer, [](const Seen& seen) { return seen.confidence(); }) / kTokens, 1e-13);
    EXPECT_NEAR(of_layer(got.dropped_fraction),
                over_all(layer, [](const Seen& seen) { return static_cast<double>(seen.dropped()); }) / slots, 1e-14);
    EXPECT_EQ(of_layer(got.fallback_tokens), over_all(layer, [](const Seen& seen) { return static_cast<double>(seen.fallback()); }));
    EXPECT_EQ(of_layer(got.nonfinite_slots), over_all(layer, [](const Seen& seen) { return static_cast<double>(seen.nonfinite()); }));
    std::vector<double> rows(static_cast<size_t>(ranks_), 0.0);
    over_all(layer, [&](const Seen& seen) { return rows[static_cast<size_t>(seen.rank)] += static_cast<double>(seen.rows()); });
    EXPECT_DOUBLE_EQ(of_layer(got.maxvio_rank), maxvio(rows));

    const std::pair<BalanceRule, double> expected[] = {
        {BalanceRule::kSwitch, balance(layer, [](const Seen& of, const Seen& other) { return of.micro_step == other.micro_step; })},
        {BalanceRule::kLocal,
         balance(layer, [](const Seen& of, const Seen& other) { return of.micro_step == other.micro_step && of.rank == other.rank; })},
        {BalanceRule::kStep, balance(layer, [](const Seen& of, const Seen& other) { return other.micro_step <= of.micro_step; })},
        {BalanceRule::kZ, over_all(layer, [](const Seen& seen) { return seen.z(); }) / kTokens},
        {BalanceRule::kSequence, over_all(layer, [](const Seen& seen) { return seen.sequence(); }) / kTokens},
    };
    double scaled = 0.0;
    for (const auto& [rule, unscaled] : expected) {
      EXPECT_NEAR(of_layer(got.loss(rule).unscaled), unscaled, 1e-12) << static_cast<int>(rule);
      EXPECT_NEAR(of_layer(got.loss(rule).scaled), kAll.coefficient(rule) * unscaled, 1e-12) << static_cast<int>(rule);
      scaled += kAll.coefficient(rule) * unscaled;
    }
    EXPECT_NEAR(of_layer(got.scaled_loss), scaled, 1e-12);
  }
}

}  // namespace
}  // namespace pimoe
