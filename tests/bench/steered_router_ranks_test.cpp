#include "bench/steered_router.h"

#include "parallel/parameter_buckets.h"
#include "support/ranks.h"
#include "train/optimizer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <numeric>

namespace pimoe {
namespace {

// Weights 1, 1/2, 1/3 of 11/6: six slots fall as 36/11, 18/11, 12/11. Of twelve the first would get 72/11, more than six tokens have; the other
// six fall as 3 to 2.
TEST(ZipfLoads, FollowTheLawAsFarAsEachTokenIsChosenOnce) {
  const std::vector<double> one = zipf_loads(/*tokens=*/6, /*experts=*/3, /*choices=*/1);
  EXPECT_DOUBLE_EQ(one[0], 36.0 / 11);
  EXPECT_DOUBLE_EQ(one[1], 18.0 / 11);
  EXPECT_DOUBLE_EQ(one[2], 12.0 / 11);
  const std::vector<double> two = zipf_loads(/*tokens=*/6, /*experts=*/3, /*choices=*/2);
  EXPECT_DOUBLE_EQ(two[0], 6.0);
  EXPECT_DOUBLE_EQ(two[1], 3.6);
  EXPECT_DOUBLE_EQ(two[2], 2.4);
  EXPECT_EQ(zipf_loads(/*tokens=*/5, /*experts=*/2, /*choices=*/2), (std::vector<double>{5, 5}));
}

/// Whether a router of this kind comes near `wanted` over all ranks' tokens.
void expect_steered(RouterKind kind, bool pre_softmax, const ProcessMesh& mesh, int64_t choices, const std::vector<double>& wanted) {
  constexpr int64_t kWidth = 16;
  constexpr int64_t kTokens = 400;  // of a rank
  MoeConfig config;
  config.experts = static_cast<int64_t>(wanted.size());
  config.choices = choices;
  config.router.kind = kind;
  config.router.pre_softmax = pre_softmax;
  ParameterList parameters;
  Router router(parameters, "router", config, kWidth, /*vocabulary=*/1, at::kFloat, mesh.device(), /*initial_deviation=*/0.1);
  ParameterBuckets buckets(parameters, mesh, ParameterBuckets::kBucketBytes, /*trained=*/true);
  Optimizer(buckets, {}, mesh).initialize(/*seed=*/1);
  const at::Tensor tokens = at::randn({kTokens, kWidth}, at::detail::createCPUGenerator(static_cast<uint64_t>(mesh.rank())), at::kFloat);
  const BatchContext context(mesh.rank() * kTokens, kTokens);
  const Communicator& group = mesh.group(Group::kBatch);
  steer(router, tokens, context, wanted, group);
  const std::vector<double> loads = group_loads(router.route(tokens, context, {}).experts, config.experts, group);
  const double all = std::accumulate(loads.begin(), loads.end(), 0.0);
  EXPECT_EQ(all, static_cast<double>(kTokens * choices * mesh.size()));
  for (size_t expert = 0; expert < wanted.size(); ++expert) {
    EXPECT_NEAR(loads[expert], wanted[expert], 0.1 * all / static_cast<double>(wanted.size())) << "expert " << expert;
  }
}

TEST(SteeredRouter, ComesNearBalanceAndZipfsLaw) {
  const auto mesh = world_mesh(cpu_mesh(), 8);
  const int64_t tokens = 400 * mesh->size();
  for (const int64_t choices : {1, 2}) {
    const std::vector<double> balanced(8, static_cast<double>(tokens * choices) / 8);
    const std::vector<double> zipf = zipf_loads(tokens, 8, choices);
    for (const std::vector<double>& wanted : {balanced, zipf}) {
      SCOPED_TRACE(choices);
      expect_steered(RouterKind::kSoftmax, /*pre_softmax=*/true, *mesh, choices, wanted);
      expect_steered(RouterKind::kSoftmax, /*pre_softmax=*/false, *mesh, choices, wanted);
      expect_steered(RouterKind::kSigmoid, /*pre_softmax=*/true, *mesh, choices, wanted);
    }
  }
}

}  // namespace
}  // namespace pimoe
