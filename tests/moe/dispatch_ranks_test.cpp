#include "moe/balance.h"
#include "moe/layer_fixture.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <random>

namespace pimoe {
namespace {

/// Every rank has its own ragged share of the tokens; the loop has them all.
void expect_layout_equals_reference(int64_t expert_parallel, int64_t experts, int64_t choices, uint64_t seed, const at::Tensor& bias) {
  const auto mesh = world_mesh(cpu_mesh(expert_parallel), experts);
  SCOPED_TRACE(testing::Message() << "EP " << expert_parallel << " E " << experts << " K " << choices << " seed " << seed);
  MoeConfig config;
  config.experts = experts;
  config.choices = choices;
  config.expert_width = 4;
  LayerFixture fixture(config, 3, *mesh, seed);
  fixture.layer.router().bias().copy_(bias);

  std::mt19937 random(seed);
  std::vector<int64_t> share(mesh->size());
  for (int64_t& tokens : share) tokens = static_cast<int64_t>(random() % 4) * static_cast<int64_t>(random() % 4);  // often none
  int64_t first = 0;
  for (int rank = 0; rank < mesh->rank(); ++rank) first += share[rank];
  int64_t total = 0;
  for (const int64_t tokens : share) total += tokens;
  at::manual_seed(seed);
  const at::Tensor input = at::randn({total, 3}, at::kDouble);
  const at::Tensor gradient = at::randn({total, 3}, at::kDouble);

  const at::Tensor ours = input.narrow(0, first, share[mesh->rank()]).clone().requires_grad_(true);
  std::optional<RoutingMemo> memo;
  const MoEOutput output = fixture.layer.forward(ours, memo);
  const BalanceTerms balance = balance_terms({output.record}, {.switch_loss = 0.7, .z_loss = 0.3},
                                             std::max<double>(1, static_cast<double>(total)), mesh->group(Group::kBatch));
  ((output.tokens * gradient.narrow(0, first, share[mesh->rank()])).sum() + balance.loss).backward();
  if (total == 0) return;

  const at::Tensor theirs = input.clone().requires_grad_(true);
  const ReferenceOutput expected = reference_moe(theirs, fixture.weights, bias, config);
  ((expected.tokens * gradient).sum() + 0.7 * expected.switch_loss + 0.3 * expected.z_loss).backward();

  EXPECT_LT(relative_difference(output.tokens, expected.tokens.narrow(0, first, share[mesh->rank()])), 1e-12);
  EXPECT_LT(relative_difference(ours.grad(), theirs.grad().narrow(0, first, share[mesh->rank()])), 1e-10);

  // Dense gradients add up over all ranks, expert gradients over the replicas of an expert: never an average.
  at::Tensor router = fixture.parameters.at("moe.router.weight").value.grad().clone();
  mesh->group(Group::kDense).all_reduce(router);
  EXPECT_LT(relative_difference(router, fixture.weights.router.grad()), 1e-10);
  for (const char* name : {"gate_up", "down"}) {
    const Parameter& parameter = fixture.parameters.at(std::string("moe.experts.") + name + ".weight");
    ASSERT_TRUE(parameter.value.grad().defined()) << "an expert without rows still has a zero gradient";
    at::Tensor sum = parameter.value.grad().clone();
    mesh->group(Group::kExpertReplica).all_reduce(sum);
    const at::Tensor& whole = std::string(name) == "down" ? fixture.weights.down : fixture.weights.gate_up;
    const double scale = std::max(1e-12, whole.grad().abs().max().item<double>());
    EXPECT_LT((sum - whole.grad().narrow(0, parameter.box.offset[0], parameter.box.shape[0])).abs().max().item<double>() / scale, 1e-10);
  }
}

TEST(MoELayouts, EveryExpertParallelSizeEqualsTheLoopAtRandomRaggedShapes) {
  const int ranks = test_session().world()->size();
  std::mt19937 random(31);
  for (int round = 0; round < 24; ++round) {
    const int64_t choices = 1 + static_cast<int64_t>(random() % 3);
    const uint64_t seed = random();
    for (int64_t expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
      if (ranks % expert_parallel == 0) expect_layout_equals_reference(expert_parallel, 12, choices, seed, at::zeros({12}, at::kDouble));
    }
  }
}

TEST(MoELayouts, ARankThatReceivesNothingTakesPart) {
  const int ranks = test_session().world()->size();
  at::Tensor bias = at::zeros({12}, at::kDouble);
  bias.slice(0, 12 / ranks * (ranks - 1)).fill_(-10);  // no token goes to the last rank's experts
  if (ranks == 1) bias.slice(0, 0, 6).fill_(0);        // alone, half of the experts are empty
  for (uint64_t seed = 1; seed < 6; ++seed) expect_layout_equals_reference(ranks, 12, 2, seed, bias);
}

TEST(MoELayouts, RowsOfAnExpertArriveInGlobalTokenOrder) {
  const auto mesh = world_mesh(cpu_mesh(test_session().world()->size()), 12);
  const Communicator& group = mesh->group(Group::kExpert);
  const ExpertPlacement placement(12, group.size(), group.rank());
  const ExchangeDispatcher dispatcher(placement, 1, group);
  // Token i of rank r is the number 100 r + i, and goes to expert (7 i) mod 12.
  const int64_t tokens = 24;
  const at::Tensor rows = (at::arange(tokens, at::kDouble) + 100.0 * group.rank()).view({tokens, 1});
  const at::Tensor experts = (at::arange(tokens, at::kInt) * 7).remainder(12).to(at::kInt).view({tokens, 1});
  const DispatchPlan plan = dispatcher.plan(experts);
  const at::Tensor arrived = dispatcher.dispatch(rows, plan);
  std::vector<double> expected;
  for (int64_t local = 0; local < placement.local(); ++local) {
    for (int rank = 0; rank < group.size(); ++rank) {
      for (int64_t token = 0; token < tokens; ++token) {
        if (token * 7 % 12 == placement.first_local() + local) expected.push_back(100.0 * rank + static_cast<double>(token));
      }
    }
  }
  EXPECT_TRUE(at::equal(arrived.view({-1}), at::tensor(expected, at::kDouble)));
  // Weights of one: combine undoes dispatch.
  EXPECT_TRUE(at::equal(dispatcher.combine(arrived, at::ones({tokens, 1}, at::kDouble), plan), rows));
}

}  // namespace
}  // namespace pimoe
