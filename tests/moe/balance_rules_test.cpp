#include "moe/balance.h"
#include "support/ranks.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

RoutingRecord record(std::vector<int64_t> load, std::vector<double> probability_sum, double z_sum, double sequences) {
  RoutingRecord made;
  made.load = at::tensor(load, at::kLong);
  made.probability_sum = at::tensor(probability_sum, at::kDouble);
  made.z_sum = at::tensor(z_sum, at::kDouble).squeeze();
  made.sequence_balance = at::tensor(sequences, at::kDouble).squeeze();
  return made;
}

const BalanceConfig kAll{.switch_loss = 0.5, .sequence_loss = 0.25, .step_loss = 0.125, .local_loss = 2.0, .z_loss = 0.1};

double part(const BalanceTerms& terms, const BalanceConfig& config, BalanceRule rule) {
  const std::vector<BalanceRule> rules = config.rules();
  const auto row = std::find(rules.begin(), rules.end(), rule) - rules.begin();
  return terms.parts[row][0].item<double>();
}

// Four tokens, two experts: loads 2 2 and probabilities 2 2 are balance; a sequence's own balance is its length.
TEST(BalanceRules, AreOneAtBalanceEachByItself) {
  const auto mesh = single_mesh();
  const BalanceTerms terms = balance_terms({record({2, 2}, {2.0, 2.0}, 12.0, 4.0)}, kAll, 4, {}, mesh->group(Group::kBatch));
  for (const BalanceRule rule : {BalanceRule::kSwitch, BalanceRule::kStep, BalanceRule::kSequence, BalanceRule::kLocal}) {
    EXPECT_NEAR(part(terms, kAll, rule), 1.0, 1e-15) << static_cast<int>(rule);
  }
  EXPECT_NEAR(part(terms, kAll, BalanceRule::kZ), 3.0, 1e-15) << "12 over four tokens";
  EXPECT_NEAR(terms.loss.item<double>(), 0.5 + 0.25 + 0.125 + 2.0 + 0.3, 1e-14);
}

// Loads 3 1, probabilities 3 1 and 1 3 before: 2 * (3/4 * 3 + 1/4 * 1) / 4 = 1.25; over the step 4 4: 1.
TEST(BalanceRules, AreToldApart) {
  const auto mesh = single_mesh();
  const BalanceTerms terms = balance_terms({record({3, 1}, {3.0, 1.0}, 0.0, 6.0)}, kAll, 4, at::tensor({1, 3}, at::kLong).view({1, 2}),
                                           mesh->group(Group::kBatch));
  EXPECT_NEAR(part(terms, kAll, BalanceRule::kSwitch), 1.25, 1e-15);
  EXPECT_NEAR(part(terms, kAll, BalanceRule::kLocal), 1.25, 1e-15);
  EXPECT_NEAR(part(terms, kAll, BalanceRule::kStep), 1.0, 1e-15);
  EXPECT_NEAR(part(terms, kAll, BalanceRule::kSequence), 1.5, 1e-15);
}

TEST(BalanceRules, ThatAreOffAreNotComputedButForTheTwoThatEveryRunReports) {
  const BalanceConfig none{.switch_loss = 0.0, .z_loss = 0.0};
  EXPECT_EQ(none.rules(), (std::vector<BalanceRule>{BalanceRule::kSwitch, BalanceRule::kZ}));
  const auto mesh = single_mesh();
  RoutingRecord plain = record({2, 2}, {2.0, 2.0}, 12.0, 0.0);
  plain.sequence_balance = at::Tensor();  // the router makes none where no coefficient asks for it
  const BalanceTerms terms = balance_terms({plain}, none, 4, {}, mesh->group(Group::kBatch));
  EXPECT_EQ(terms.parts.size(0), 2);
  EXPECT_EQ(terms.loss.item<double>(), 0.0);
}

}  // namespace
}  // namespace pimoe
