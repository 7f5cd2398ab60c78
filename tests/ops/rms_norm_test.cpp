#include "ops/rms_norm.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <limits>

namespace pimoe::checks {
namespace rms_norm_tests {

constexpr double kEpsilon = 1e-5;

at::Tensor reference(const at::Tensor& input, const at::Tensor& weight) {
  const int64_t width = weight.size(0);
  at::Tensor output = at::empty_like(input);
  const double* x = input.const_data_ptr<double>();
  for (int64_t r = 0; r < input.numel() / width; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += x[r * width + i] * x[r * width + i];
    const double root = std::sqrt(squares / static_cast<double>(width) + kEpsilon);
    for (int64_t i = 0; i < width; ++i) {
      output.mutable_data_ptr<double>()[r * width + i] = x[r * width + i] / root * weight.const_data_ptr<double>()[i];
    }
  }
  return output;
}

at::Tensor apply(const std::vector<at::Tensor>& inputs) { return rms_norm(inputs[0], inputs[1], kEpsilon); }

TEST(RmsNorm, MatchesPlainLoopsAtAnyShapeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  const std::vector<std::vector<int64_t>> shapes = {{0, 8}, {1, 1},    {5, 7},    {2, 3, 16}, {33, 40}, {130, 264},
                                                    {9},    {5, 2048}, {3, 2056}, {2, 4352},  {2, 1031}};
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const std::vector<int64_t>& shape : shapes) {
      SCOPED_TRACE(concat(dtype, " ", at::IntArrayRef(shape)));
      const at::Tensor input = on_device(random.normal(shape) * 3, dtype);
      const at::Tensor weight = on_device(random.normal({shape.back()}), arithmetic_of(dtype));
      const at::Tensor output = rms_norm(input, weight, kEpsilon);
      EXPECT_EQ(output.scalar_type(), dtype);
      expect_close(output, reference(on_host(input), on_host(weight)), tolerance_of(dtype));
    }
  }
}

TEST(RmsNorm, GradientsAreThoseOfTheFormula) {
  Random random;
  SCOPED_TRACE(random.trace());
  check_gradients(apply, {{random.normal({3, 7})}, {random.normal({7}), true}}, random);
  check_gradients(apply, {{random.normal({2, 2, 24})}, {random.normal({24}), true}}, random);
}

// 64 rows are added up at a time: less than one part, several, and a part that is not full.
TEST(RmsNorm, WeightGradientAddsEveryRowOnce) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const int64_t rows : {1, 63, 64, 65, 200}) {
    SCOPED_TRACE(rows);
    const at::Tensor input = random.normal({rows, 40});
    const at::Tensor grad = random.normal({rows, 40});
    const std::vector<at::Tensor> all = gradients(apply, leaves({{input}, {at::ones({40}, at::kDouble), true}}, at::kDouble), grad);
    at::Tensor expected = at::zeros({40}, at::kDouble);
    for (int64_t row = 0; row < rows; ++row) {
      expected += grad[row] * input[row] / std::sqrt(input[row].square().mean().item<double>() + kEpsilon);
    }
    expect_close(all[1], expected, 1e-12, 10.0);
  }
}

/// The stream and its norm, one after the other: both count.
at::Tensor residual(const std::vector<at::Tensor>& inputs, bool fused) {
  const ResidualNorm norm = fused ? residual_rms_norm(inputs[0], inputs[1], inputs[2], kEpsilon)
                                  : ResidualNorm{inputs[0] + inputs[1], rms_norm(inputs[0] + inputs[1], inputs[2], kEpsilon)};
  return at::cat({norm.sum, norm.normed}, -1);
}

TEST(ResidualRmsNorm, IsTheSumAndItsNormForwardAndBackward) {
  Random random;
  SCOPED_TRACE(random.trace());
  const Operation fused = [](const std::vector<at::Tensor>& inputs) { return residual(inputs, true); };
  const Operation apart = [](const std::vector<at::Tensor>& inputs) { return residual(inputs, false); };
  check_gradients(fused, {{random.normal({3, 7})}, {random.normal({3, 7})}, {random.normal({7}), true}}, random);
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{1, 1}, {70, 24}, {3, 5, 264}, {9, 2048}, {4, 4104}, {3, 1031}}) {
    const std::vector<Input> inputs = {{random.normal(shape) * 3}, {random.normal(shape)}, {random.normal({shape.back()}), true}};
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(concat(dtype, " ", at::IntArrayRef(shape)));
      const std::vector<at::Tensor> ours = leaves(inputs, dtype), theirs = leaves(inputs, dtype);
      const at::Tensor output = fused(ours);
      expect_same_bits(output, apart(theirs));
      const at::Tensor factors = random.normal(output.sizes());
      const auto grads = gradients(fused, ours, factors), expected = gradients(apart, theirs, factors);
      expect_same_bits(grads[0], expected[0]);
      expect_same_bits(grads[0], grads[1]);
      expect_same_bits(grads[2], expected[2]);
    }
  }
}

TEST(ResidualRmsNorm, TakesEitherResultsGradientAlone) {
  Random random;
  SCOPED_TRACE(random.trace());
  const std::vector<Input> inputs = {{random.normal({5, 24})}, {random.normal({5, 24})}, {random.normal({24}), true}};
  const at::Tensor factors = random.normal({5, 24});
  const auto one = [&](bool of_sum) {
    return gradients(
        [of_sum](const std::vector<at::Tensor>& tensors) {
          const ResidualNorm norm = residual_rms_norm(tensors[0], tensors[1], tensors[2], kEpsilon);
          return of_sum ? norm.sum : norm.normed;
        },
        leaves(inputs, at::kDouble), factors);
  };
  expect_same_bits(on_host(one(true)[1]), factors);
  const auto of_norm =
      gradients([](const std::vector<at::Tensor>& tensors) { return rms_norm(tensors[0] + tensors[1], tensors[2], kEpsilon); },
                leaves(inputs, at::kDouble), factors);
  for (size_t i = 0; i < 3; ++i) expect_same_bits(one(false)[i], of_norm[i]);
}

TEST(ResidualRmsNorm, WithoutAnUpdateIsTheNorm) {
  const auto options = at::TensorOptions().device(test_device());
  const at::Tensor input = at::randn({3, 8}, options), weight = at::randn({8}, options);
  const ResidualNorm norm = residual_rms_norm(input, {}, weight, kEpsilon);
  EXPECT_TRUE(norm.sum.is_same(input));
  expect_same_bits(norm.normed, rms_norm(input, weight, kEpsilon));
  EXPECT_THROW(residual_rms_norm(input, at::zeros({3, 7}, options), weight, kEpsilon), ShapeError);
  EXPECT_THROW(residual_rms_norm(input, at::zeros({3, 8}, options.dtype(at::kDouble)), weight, kEpsilon), ShapeError);
}

TEST(RmsNorm, NoRowsGiveDefinedZeroGradients) {
  const std::vector<at::Tensor> grads = gradients(
      apply, leaves({{at::zeros({0, 6}, at::kDouble)}, {at::ones({6}, at::kDouble), true}}, at::kBFloat16), at::zeros({0, 6}, at::kDouble));
  EXPECT_EQ(grads[0].sizes(), (std::vector<int64_t>{0, 6}));
  expect_close(grads[1], at::zeros({6}, at::kDouble), 0.0);
}

TEST(RmsNorm, SpoilsTheRowOfANanAndNoOther) {
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      at::Tensor values = at::ones({3, 20}, at::kDouble);
      values[1][13] = bad;
      const at::Tensor output =
          on_host(rms_norm(on_device(values, dtype), on_device(at::ones({20}, at::kDouble), arithmetic_of(dtype)), kEpsilon));
      EXPECT_TRUE(at::isfinite(output[0]).all().item<bool>() && at::isfinite(output[2]).all().item<bool>());
      EXPECT_FALSE(std::isfinite(output[1][13].item<double>()));
    }
  }
}

TEST(RmsNorm, RefusesAWeightOfAnotherWidthOrDtype) {
  const auto options = at::TensorOptions().device(test_device());
  EXPECT_THROW(rms_norm(at::zeros({2, 4}, options), at::ones({3}, options), kEpsilon), ShapeError);
  const auto bfloat16 = options.dtype(at::kBFloat16);
  EXPECT_THROW(rms_norm(at::zeros({2, 4}, bfloat16), at::ones({4}, bfloat16), kEpsilon), ShapeError);
  EXPECT_THROW(rms_norm(at::zeros({4, 4}, options).t(), at::ones({4}, options.dtype(at::kDouble)), kEpsilon), ShapeError);
}

}  // namespace rms_norm_tests
}  // namespace pimoe::checks
