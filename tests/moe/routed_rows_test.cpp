#include "moe/routed_rows.h"
#include "moe/capacity.h"
#include "moe/layer_fixture.h"
#include "moe/moe_memory.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <numeric>

namespace pimoe {
namespace {

MoeConfig eight_experts(double capacity_factor) {
  MoeConfig config;
  config.expert_width = 6;
  config.capacity_factor = capacity_factor;
  config.capacity_pad = true;
  return config;
}

/// @returns rows of a layer of one rank: what is foretold, and what it computes
std::pair<int64_t, int64_t> foretold_and_computed(const MoeConfig& config, int64_t tokens) {
  const auto mesh = single_mesh(cpu_mesh(), config.experts);
  LayerFixture fixture(config, 5, *mesh, 3);
  std::optional<RoutingMemo> memo;
  at::manual_seed(4);
  const MoEOutput output = fixture.layer.forward(at::randn({tokens, 5}, at::kDouble), {0, tokens}, memo);
  const RoutedRows rows = routed_rows(config, {.of_rank = {tokens}}, 1.0);
  return {rows.all_rows(), output.record.rows.item<int64_t>()};
}

// 400 * 2 / 8 * 1.1 is 110.00000000000001 in binary, and 110 slots an expert.
TEST(RoutedRows, ForetellThePaddedRowsThatALayerComputes) {
  EXPECT_EQ(foretold_and_computed(eight_experts(1.1), 400), std::pair(int64_t{880}, int64_t{880}));
}

TEST(RoutedRows, ACapacityIsNeverMoreThanTheTokensThatThereAre) {
  EXPECT_EQ(foretold_and_computed(eight_experts(1000.0), 7), std::pair(int64_t{56}, int64_t{56}));
  EXPECT_EQ(expert_capacity(eight_experts(1000.0), 7), 7);
  EXPECT_EQ(expert_capacity(eight_experts(1.0), 7), 2) << "14 slots over 8 experts";
  EXPECT_EQ(expert_capacity(eight_experts(1.0), 0), 1) << "a padded exchange has rows where a rank has no token";
}

// Two kinds of four experts, 64 tokens, 128 slots, of which each expert takes half a fair share: 8. On a GPU a rank does not ask how many that is.
TEST(RoutedRows, OneGpuMakesRoomForDroppedSlotsOfTypedExpertsToo) {
  MoeConfig config;
  config.groups = {{.name = "narrow", .count = 4, .width = 6}, {.name = "wide", .count = 4, .width = 12}};
  config.capacity_factor = 0.5;
  RoutedTokens tokens{.of_rank = {64}};
  const RoutedRows cpu = routed_rows(config, tokens, 1.0);
  EXPECT_EQ(cpu.room, 64);
  tokens.on_gpu = true;
  const RoutedRows gpu = routed_rows(config, tokens, 1.0);
  EXPECT_EQ(gpu.rows, cpu.rows) << "products are cut to what each bank has";
  EXPECT_EQ(gpu.room, 128);
  EXPECT_EQ(gpu.sent, 128);
  const auto kept = [&](const RoutedRows& rows) { return moe_bytes(config, 16, 64, rows, 1, {}, /*recomputed=*/false).dispatch; };
  EXPECT_GE(kept(gpu), kept(cpu) + (128 - 64) * 16 * 2) << "rows, and results where gates learn";
}

// 100 * 2 slots over 4 ranks, times 1.1: 55.00000000000001 in binary.
TEST(RoutedRows, ARanksBudgetIsRoundedAsACapacityIs) {
  MoeConfig config;
  config.rank_budget = 1.1;
  EXPECT_EQ(rows_within_budget(config, 200, 4), 55);
  EXPECT_EQ(rows_within_budget(config, 0, 4), 1);
  // Everything to the first of four ranks, 200 rows in rounds of 55.
  const RoutedRows rows = routed_rows(config, {.of_rank = {25, 25, 25, 25}}, kWorstSkew);
  EXPECT_EQ(rows.all_rows(), 200);
  EXPECT_EQ(rows.rounds, 4);
}

}  // namespace
}  // namespace pimoe
