#include "ops/wide_linear.h"

#include "base/errors.h"
#include "ops/op_checks.h"

namespace pimoe::checks {
namespace wide_linear_tests {

struct Sizes {
  int64_t tokens, width, experts;
};
/// Widths and experts that fill no tile, odd ones, one token, and none.
const std::vector<Sizes>& all_sizes() {
  static const std::vector<Sizes> sizes = {{70, 64, 8}, {5, 12, 3}, {1, 2, 1}, {0, 8, 4}, {130, 258, 70}, {9, 5, 4}, {33, 16, 129}};
  return sizes;
}

Operation linear() {
  return [](const std::vector<at::Tensor>& inputs) { return wide_linear(inputs[0], inputs[1]); };
}

std::vector<Input> inputs_of(Random& random, const Sizes& s) {
  return {{random.normal({s.tokens, s.width})}, {random.normal({s.experts, s.width}), /*is_arithmetic=*/true}};
}

// The result is that of the weight's precision, whatever the tokens': to 2^-20 of what is added up.
TEST(WideLinear, IsAsPreciseAsTheWeightAtAnySizeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const Sizes& sizes : all_sizes()) {
    const std::vector<Input> inputs = inputs_of(random, sizes);
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(concat(dtype, " ", sizes.tokens, " ", sizes.width, " ", sizes.experts));
      const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
      const at::Tensor output = linear()(tensors);
      EXPECT_EQ(output.scalar_type(), arithmetic_of(dtype));
      const double tolerance = dtype == at::kDouble ? 1e-13 : 3e-6;
      const auto scale = std::sqrt(static_cast<double>(sizes.width));
      expect_close(output, on_host(tensors[0]).mm(on_host(tensors[1]).t()), tolerance, scale);

      const at::Tensor factors = random.normal({sizes.tokens, sizes.experts});
      const auto grads = gradients(linear(), tensors, factors);
      const at::Tensor wide_factors = on_host(on_device(factors, arithmetic_of(dtype)));
      EXPECT_EQ(grads[0].scalar_type(), dtype);
      EXPECT_EQ(grads[1].scalar_type(), arithmetic_of(dtype));
      expect_close(grads[0], wide_factors.mm(on_host(tensors[1])), tolerance_of(dtype), std::sqrt(static_cast<double>(sizes.experts)));
      expect_close(grads[1], wide_factors.t().mm(on_host(tensors[0])), tolerance, std::sqrt(static_cast<double>(sizes.tokens + 1)));
    }
  }
}

TEST(WideLinear, GradientsAreThoseOfTheFormula) {
  Random random;
  SCOPED_TRACE(random.trace());
  check_gradients(linear(), inputs_of(random, {5, 6, 3}), random);
}

TEST(WideLinear, RefusesOtherShapesAndDtypes) {
  const auto options = at::TensorOptions().device(test_device());
  EXPECT_THROW(wide_linear(at::zeros({3, 4}, options), at::zeros({2, 5}, options)), ShapeError);
  EXPECT_THROW(wide_linear(at::zeros({3, 4}, options.dtype(at::kBFloat16)), at::zeros({2, 4}, options.dtype(at::kBFloat16))), ShapeError);
}

}  // namespace wide_linear_tests
}  // namespace pimoe::checks
