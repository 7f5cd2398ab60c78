#include "compress/expert_merging.h"

#include "compress/pruned_layer.h"
#include "support/ranks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace pimoe {
namespace {

at::Tensor random_numbers(at::IntArrayRef sizes, uint64_t seed, at::ScalarType dtype = at::kDouble) {
  at::manual_seed(seed);
  return at::randn(sizes, dtype);
}

using Groups = std::vector<std::vector<int64_t>>;

// Outputs 0, 0.1, 5, 5.3 and 9 of one token.
TEST(GroupsToMerge, PutsTogetherWhatIsNear) {
  const at::Tensor outputs = at::tensor({0.0, 0.1, 5.0, 5.3, 9.0}).view({5, 1, 1});
  const at::Tensor loads = at::tensor({10, 10, 10, 10, 10}, at::kLong);
  EXPECT_EQ(groups_to_merge(output_products(outputs), loads, 4), (Groups{{0, 1}, {2}, {3}, {4}}));
  EXPECT_EQ(groups_to_merge(output_products(outputs), loads, 3), (Groups{{0, 1}, {2, 3}, {4}}));
  EXPECT_EQ(groups_to_merge(output_products(outputs), loads, 2), (Groups{{0, 1}, {2, 3, 4}}));
  EXPECT_EQ(groups_to_merge(output_products(outputs), loads, 5).size(), 5U);
}

TEST(GroupsToMerge, TakesExpertsWithoutLoadFirst) {
  const at::Tensor outputs = at::tensor({0.0, 0.1, 5.0, 90.0}).view({4, 1, 1});
  EXPECT_EQ(groups_to_merge(output_products(outputs), at::tensor({10, 10, 10, 0}, at::kLong), 3), (Groups{{0, 3}, {1}, {2}}));
  EXPECT_EQ(groups_to_merge(output_products(outputs), at::zeros({4}, at::kLong), 1), (Groups{{0, 1, 2, 3}}));
}

/// By what it means: of every pair of groups, the sum over experts of load |output - mean of its group|^2 after merging it.
Groups plain_groups(const at::Tensor& outputs, const at::Tensor& loads, int64_t kept) {
  Groups groups;
  for (int64_t expert = 0; expert < outputs.size(0); ++expert) groups.push_back({expert});
  const auto error = [&](const std::vector<int64_t>& group) {
    at::Tensor mean = at::zeros_like(outputs[0]);
    double all = 0.0, sum = 0.0;
    for (const int64_t expert : group) {
      mean = mean + loads[expert].item<double>() * outputs[expert];
      all += loads[expert].item<double>();
    }
    mean = mean / all;
    for (const int64_t expert : group) sum += loads[expert].item<double>() * (outputs[expert] - mean).square().sum().item<double>();
    return sum;
  };
  while (static_cast<int64_t>(groups.size()) > kept) {
    double least = std::numeric_limits<double>::infinity();
    size_t first = 0, second = 0;
    for (size_t a = 0; a < groups.size(); ++a) {
      for (size_t b = a + 1; b < groups.size(); ++b) {
        std::vector<int64_t> both = groups[a];
        both.insert(both.end(), groups[b].begin(), groups[b].end());
        const double rise = error(both) - error(groups[a]) - error(groups[b]);
        if (rise >= least) continue;
        least = rise;
        first = a;
        second = b;
      }
    }
    groups[first].insert(groups[first].end(), groups[second].begin(), groups[second].end());
    std::sort(groups[first].begin(), groups[first].end());
    groups.erase(groups.begin() + static_cast<ptrdiff_t>(second));
  }
  std::sort(groups.begin(), groups.end());
  return groups;
}

TEST(GroupsToMerge, AreThoseOfAPlainSearch) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const at::Tensor outputs = random_numbers({9, 37, 3}, seed);
    const at::Tensor loads = at::randint(1, 50, {9}, at::kLong);
    for (const int64_t kept : {7, 4, 2}) {
      EXPECT_EQ(groups_to_merge(output_products(outputs), loads, kept), plain_groups(outputs, loads, kept)) << "seed " << seed;
    }
  }
}

TEST(AlignedChannels, UndoAPermutation) {
  for (const int64_t channels : {1, 7, 300}) {
    const at::Tensor reference = random_numbers({channels, 12}, 5, at::kFloat);
    const at::Tensor order = at::randperm(channels, at::kLong);
    const at::Tensor other = reference.index_select(0, order) + 0.01 * at::randn({channels, 12}, at::kFloat);
    const at::Tensor chosen = aligned_channels(reference, other);
    EXPECT_TRUE(at::equal(order.index_select(0, chosen), at::arange(channels, at::kLong))) << channels;
  }
}

/// Makes expert `to` the same as `from`, its channels in another order.
void copy_expert(LayerFixture& fixture, int64_t from, int64_t to) {
  const at::NoGradGuard no_gradients;
  const at::Tensor order = at::randperm(fixture.config.expert_width, at::kLong);
  const auto set = [&](const std::string& name, const at::Tensor& values) {
    fixture.whole.at(name)[to].copy_(values);
    fixture.parameters.at(name).value[to].copy_(values);
  };
  const at::Tensor up = fixture.whole.at("moe.experts.gate_up.weight")[from].detach();
  set("moe.experts.gate_up.weight", up.index_select(0, at::cat({order, order + fixture.config.expert_width})));
  set("moe.experts.down.weight", fixture.whole.at("moe.experts.down.weight")[from].detach().index_select(1, order));
}

TEST(PlanMerging, TwoExpertsThatAreTheSameBecomeOneThatIsNoOther) {
  const auto mesh = single_mesh();
  const MoeConfig config = small_moe(5, 1, /*renormalize=*/true);
  LayerFixture large(config, 8, *mesh, 21);
  at::manual_seed(6);
  copy_expert(large, 1, 3);
  const auto set_row = [&](int64_t to, const at::Tensor& row) {
    const at::NoGradGuard no_gradients;
    large.whole.at("moe.router.weight")[to].copy_(row);
    large.parameters.at("moe.router.weight").value[to].copy_(row);
  };
  set_row(3, large.whole.at("moe.router.weight")[1].detach());  // of equal scores the lower number has the token
  const ExpertReader read = [&](const std::string& matrix, int64_t expert) { return large.whole.at(matrix).detach()[expert]; };
  LayerImportance importance;
  importance.loads = at::tensor({9, 5, 9, 3, 9}, at::kLong);
  importance.experts = at::tensor({9.0, 5.0, 9.0, 3.0, 9.0});
  MoeConfig after = config;
  after.experts = 4;
  const LayerPlan plan = plan_merging("moe", config, cells_of(config, after), importance, random_numbers({64, 8}, 7, at::kFloat), read);
  EXPECT_EQ(plan.recipe.new_numbers(5), (std::vector<int64_t>{0, 1, 2, 1, 3}));
  EXPECT_NEAR(plan.lost, 3.0 / 35.0, 1e-12);
  ASSERT_EQ(plan.recipe.experts[1].size(), 2U);
  EXPECT_NEAR(plan.recipe.experts[1][0].weight, 5.0 / 8.0, 1e-12);
  LayerFixture small(after, 8, *mesh, 99);
  make_of(small, large, plan.recipe);
  const at::Tensor tokens = random_numbers({80, 8}, 8);
  EXPECT_LT(relative_difference(output_of(small, tokens), output_of(large, tokens)), 1e-13);
  EXPECT_LT((small.parameters.at("moe.experts.down.weight").value[1] - large.whole.at("moe.experts.down.weight").detach()[1])
                .abs()
                .max()
                .item<double>(),
            1e-14);
}

TEST(PlanMerging, StaysInsideOfTheRoutersGroups) {
  const auto mesh = single_mesh();
  MoeConfig config = small_moe(8, 2, /*renormalize=*/true);
  config.router.groups = 2;
  config.router.group_choices = 1;
  LayerFixture large(config, 8, *mesh, 22);
  copy_expert(large, 1, 5);  // in the other group
  const ExpertReader read = [&](const std::string& matrix, int64_t expert) { return large.whole.at(matrix).detach()[expert]; };
  LayerImportance importance;
  importance.loads = at::full({8}, 4, at::kLong);
  importance.experts = at::ones({8}, at::kDouble);
  MoeConfig after = config;
  after.experts = 6;
  const LayerPlan plan = plan_merging("moe", config, cells_of(config, after), importance, random_numbers({32, 8}, 7, at::kFloat), read);
  ASSERT_EQ(plan.recipe.experts.size(), 6U);
  for (size_t expert = 0; expert < 6; ++expert) {
    for (const ExpertPart& part : plan.recipe.experts[expert]) EXPECT_EQ(part.expert / 4, static_cast<int64_t>(expert) / 3);
  }
}

}  // namespace
}  // namespace pimoe
