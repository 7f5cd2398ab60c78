#include "moe/exchange_dispatcher.h"
#include "moe/layer_check.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <random>

namespace pimoe {
namespace {

TEST(MoELayouts, EveryExpertParallelSizeEqualsTheLoopForEveryRouterLimitAndShape) {
  const int ranks = test_session().world()->size();
  std::mt19937 random(31);
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    const LayerCase made = random_layer(random, ranks, ranks == 3 ? 3 : 4);
    for (int64_t expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
      if (ranks % expert_parallel != 0) continue;
      const auto mesh = world_mesh(cpu_mesh(expert_parallel), made.config.common_divisor());
      SCOPED_TRACE(testing::Message() << "EP " << expert_parallel);
      expect_equal_to_loop(made, *mesh);
    }
  }
}

TEST(MoELayouts, ARankThatReceivesNothingTakesPart) {
  const int ranks = test_session().world()->size();
  const auto mesh = world_mesh(cpu_mesh(ranks), 12);
  LayerCase made;
  made.config.experts = 12;
  made.config.expert_width = 4;
  made.width = 6;
  made.bias = at::zeros({12}, at::kDouble);
  made.bias.slice(0, 12 / ranks * (ranks - 1)).fill_(-10);  // no token goes to the last rank's experts
  if (ranks == 1) made.bias.slice(0, 0, 6).fill_(0);        // alone, half of the experts are empty
  for (int rank = 0; rank < ranks; ++rank) made.sequences.push_back(3 + rank);
  for (const MoeExchange exchange : {MoeExchange::kRows, MoeExchange::kTokens, MoeExchange::kDirect}) {
    made.config.exchange = exchange;
    for (made.seed = 1; made.seed < 6; ++made.seed) {
      for (const bool static_rows : {false, true}) {
        made.static_rows = static_rows;
        expect_equal_to_loop(made, *mesh);
      }
    }
  }
}

// All slots go to rank 0. It may compute its share at balance at a time: a round for each rank, and nothing is lost.
TEST(MoELayouts, ARanksBudgetBoundsItsRowsAndLosesNothing) {
  const int ranks = test_session().world()->size();
  const auto mesh = world_mesh(cpu_mesh(ranks), 12);
  LayerCase made;
  made.config.experts = 12;
  made.config.choices = 1;
  made.config.expert_width = 4;
  made.config.rank_budget = 1.0;
  made.bias = at::zeros({12}, at::kDouble);
  made.bias[0] = 10;
  for (int rank = 0; rank < ranks; ++rank) made.sequences.push_back(8);
  expect_equal_to_loop(made, *mesh);
  LayerFixture fixture(made.config, 5, *mesh, 3);
  fixture.layer.router().bias().copy_(made.bias);
  std::optional<RoutingMemo> memo;
  const MoEOutput output = fixture.layer.forward(at::randn({8, 5}, at::kDouble), {0, 8}, memo);
  EXPECT_EQ(memo->plans.size(), static_cast<size_t>(ranks));
  for (const DispatchPlan& plan : memo->plans) EXPECT_LE(plan.rows, 8);
  EXPECT_EQ(output.record.rows.item<int64_t>(), mesh->rank() == 0 ? 8 * ranks : 0);

  made.config.rank_overflow = RankOverflow::kDrop;
  made.config.router.renormalize = false;  // gates that differ
  LayerFixture dropping(made.config, 5, *mesh, 3);
  dropping.layer.router().bias().copy_(made.bias);
  std::optional<RoutingMemo> second;
  const MoEOutput rest = dropping.layer.forward(at::randn({8, 5}, at::kDouble), {0, 8}, second);
  at::Tensor dropped = rest.record.dropped.reshape({1}).clone();
  mesh->group(Group::kBatch).all_reduce(dropped);
  EXPECT_GE(dropped.item<int64_t>(), 8 * (ranks - 1));
  EXPECT_LT(dropped.item<int64_t>(), 8 * (ranks - 1) + ranks) << "each rank rounds its share down by less than a row";
  EXPECT_LE(second->plans[0].rows, 8);
  if (ranks == 1) return;
  const at::Tensor served = rest.tokens.abs().sum(1) > 0;
  const at::Tensor gates = rest.record.weights.view({8});
  ASSERT_EQ(8 - served.sum().item<int64_t>(), rest.record.dropped.item<int64_t>());
  EXPECT_GE(gates.masked_select(served).min().item<double>(), gates.masked_select(served.logical_not()).max().item<double>());
}

TEST(MoELayouts, RowsOfAnExpertArriveInGlobalTokenOrder) {
  const auto mesh = world_mesh(cpu_mesh(test_session().world()->size()), 12);
  const Communicator& group = mesh->group(Group::kExpert);
  const ExpertPlacement placement({{.name = "", .count = 12}}, group.size(), group.rank());
  const ExchangeDispatcher dispatcher(placement, group, /*by_token=*/false);
  // Token i of rank r is the number 100 r + i, and goes to expert (7 i) mod 12.
  const int64_t tokens = 24;
  const at::Tensor rows = (at::arange(tokens, at::kDouble) + 100.0 * group.rank()).view({tokens, 1});
  const at::Tensor experts = (at::arange(tokens, at::kInt) * 7).remainder(12).to(at::kInt).view({tokens, 1});
  const DispatchPlan plan = dispatcher.plan(experts, {.most_tokens = tokens});
  const at::Tensor arrived = dispatcher.dispatch(rows, plan);
  std::vector<double> expected;
  for (int64_t local = 0; local < placement.local(); ++local) {
    for (int rank = 0; rank < group.size(); ++rank) {
      for (int64_t token = 0; token < tokens; ++token) {
        if (token * 7 % 12 == placement.banks()[0].first_local + local) expected.push_back(100.0 * rank + static_cast<double>(token));
      }
    }
  }
  EXPECT_TRUE(at::equal(arrived.view({-1}), at::tensor(expected, at::kDouble)));
  // Weights of one: combine undoes dispatch.
  EXPECT_TRUE(at::equal(dispatcher.combine(arrived, at::ones({tokens, 1}, at::kDouble), plan), rows));
}

// Every rank has 24 tokens with two of 12 experts each; which ranks they go to decides what travels.
TEST(MoELayouts, ATokenTravelsOnceToEachRankOfItsExperts) {
  const auto mesh = world_mesh(cpu_mesh(test_session().world()->size()), 12);
  const Communicator& group = mesh->group(Group::kExpert);
  const ExpertPlacement placement({{.name = "", .count = 12}}, group.size(), group.rank());
  const ExchangeDispatcher dispatcher(placement, group, /*by_token=*/true);
  const int64_t tokens = 24, ranks = group.size();
  const at::Tensor rows = (at::arange(tokens, at::kDouble) + 100.0 * group.rank()).view({tokens, 1}).requires_grad_(true);
  const at::Tensor weights = at::rand({tokens, 2}, at::kDouble).requires_grad_(true);
  at::Tensor experts = at::stack({at::arange(tokens), at::arange(tokens) * 5 + 1}, 1).remainder(12).to(at::kInt);
  experts[3].fill_(-1);  // goes nowhere
  experts[4][1] = -1;
  const DispatchPlan plan = dispatcher.plan(experts, {.most_tokens = tokens});
  if (ranks == 1) {
    EXPECT_FALSE(plan.by_token);
    return;
  }
  ASSERT_TRUE(plan.by_token);
  const at::Tensor to = placement.ranks_of(experts);
  std::vector<int64_t> sent(ranks, 0);
  at::Tensor copies = at::zeros({tokens, 1}, at::kDouble);
  for (int64_t token = 0; token < tokens; ++token) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const bool goes = to[token].eq(rank).any().item<bool>();
      sent[rank] += goes ? 1 : 0;
      if (goes) copies[token] += 1;
    }
  }
  EXPECT_EQ(plan.token_route.send_tokens, sent);
  const ArrivedTokens arrived = dispatcher.dispatch_tokens(rows, weights, plan);
  EXPECT_EQ(arrived.rows, plan.ends[placement.local() - 1].item<int64_t>());
  // What comes back is the sum over ranks, and so is its gradient.
  const at::Tensor back = dispatcher.combine_tokens(arrived.tokens, plan);
  EXPECT_TRUE(at::equal(back, rows * copies));
  back.sum().backward();
  EXPECT_TRUE(at::equal(rows.grad(), copies));
}

}  // namespace
}  // namespace pimoe
