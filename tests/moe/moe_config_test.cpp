#include "moe/moe_config.h"

#include "moe/layer_fixture.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

struct Refusal {
  const char* what;
  void (*change)(MoeConfig&);
  const char* key;
};

TEST(MoeConfig, RefusesWhatDoesNotFitTogether) {
  const Refusal cases[] = {
      {"more choices than experts", [](MoeConfig& config) { config.choices = 9; }, "model.moe.choices"},
      {"groups that do not divide", [](MoeConfig& config) { config.router.groups = 3; }, "model.moe.router.groups"},
      {"groups of a router that has none",
       [](MoeConfig& config) {
         config.router.groups = 2;
         config.router.kind = RouterKind::kUniform;
       },
       "model.moe.router.groups"},
      {"too few experts in the groups of a token",
       [](MoeConfig& config) {
         config.router.groups = 8;
         config.choices = 2;
       },
       "model.moe.choices"},
      {"a skew without a bias", [](MoeConfig& config) { config.router.initial_skew = 1; }, "model.moe.router.initial_skew"},
      {"padding without a capacity", [](MoeConfig& config) { config.capacity_pad = true; }, "model.moe.capacity_pad"},
      {"a budget below a share", [](MoeConfig& config) { config.rank_budget = 0.5; }, "model.moe.rank_budget"},
      {"groups that do not add up", [](MoeConfig& config) { config.groups = {{.name = "a", .count = 3}}; }, "model.moe.experts"},
      {"two groups of one name",
       [](MoeConfig& config) {
         config.groups = {{.name = "a", .count = 4}, {.name = "a", .count = 4}};
       },
       "model.moe.groups[1].name"},
      {"a name that is none", [](MoeConfig& config) { config.groups = {{.name = "a.b", .count = 8}}; }, "model.moe.groups[0].name"},
      {"a capacity of experts that choose",
       [](MoeConfig& config) {
         config.router.kind = RouterKind::kExpertChoice;
         config.capacity_factor = 1;
       },
       "model.moe.capacity_factor"},
  };
  for (const Refusal& refusal : cases) {
    MoeConfig config = small_moe(8, 2, true);
    refusal.change(config);
    Violations violations;
    config.validate("model.moe", violations);
    ASSERT_EQ(violations.lines().size(), 1u) << refusal.what;
    EXPECT_EQ(violations.lines()[0].first, refusal.key) << refusal.what;
  }
}

}  // namespace
}  // namespace pimoe
