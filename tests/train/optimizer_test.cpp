#include "train/optimizer.h"

#include "support/ranks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

TEST(GradientNorm, OfMillionsOfElementsIsAsExactAsOfFew) {
  const auto mesh = single_mesh();
  ParameterList parameters;
  const int64_t count = int64_t{6} << 20;
  parameters.declare({.name = "weight",
                      .box = Box::whole({count}),
                      .copies = Group::kDense,
                      .dtype = at::kFloat,
                      .decay = true,
                      .initializer = {},
                      .value = {}});
  ParameterBuckets buckets(parameters, *mesh, ParameterBuckets::kBucketBytes, /*trained=*/true);
  const Optimizer optimizer(buckets, {}, *mesh);
  at::manual_seed(5);
  at::Tensor& gradients = buckets.buckets()[0].gradients;
  gradients.copy_(at::randn(gradients.sizes()) * 1e-3);
  const double exact = gradients.to(at::kDouble).norm().item<double>();
  EXPECT_NEAR(optimizer.gradient_norm(1.0) / exact, 1.0, 1e-7);
}

}  // namespace
}  // namespace pimoe
