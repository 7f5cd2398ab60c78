#include "ops/sum_of_squares.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <limits>

namespace pimoe::checks {
namespace sum_of_squares_tests {

at::Tensor on(const at::Tensor& values, at::ScalarType dtype) { return on_device(values, dtype); }

TEST(SumOfSquares, IsThatOfFloat64AtAnyLength) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    double all = 0;
    std::vector<at::Tensor> tensors;
    for (const int64_t length : {1, 0, 3, 64, 130, 4096, 100003, 3000000}) {
      SCOPED_TRACE(concat(dtype, " ", length));
      const at::Tensor tensor = on(random.normal({length}), dtype);
      const double expected = on_host(tensor).square().sum().item<double>();
      const at::Tensor found = sum_of_squares({tensor});
      EXPECT_EQ(found.scalar_type(), at::kDouble);
      EXPECT_NEAR(found.item<double>(), expected, (dtype == at::kDouble ? 1e-12 : 1e-6) * expected);
      expect_same_bits(sum_of_squares({tensor}), found);
      tensors.push_back(tensor);
      all += expected;
    }
    EXPECT_NEAR(sum_of_squares(tensors).item<double>(), all, (dtype == at::kDouble ? 1e-12 : 1e-6) * all);
  }
}

TEST(SumOfSquares, KeepsWhatIsNotFinite) {
  for (const double value : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const int64_t place : {0, 77, 998}) {
      const at::Tensor values = at::ones({999}, at::kDouble);
      values[place] = value;
      EXPECT_FALSE(std::isfinite(sum_of_squares({on(values, at::kFloat)}).item<double>()));
    }
  }
}

TEST(SumOfSquares, RefusesOtherTensors) {
  const auto options = at::TensorOptions().device(test_device());
  EXPECT_THROW(sum_of_squares({}), ShapeError);
  EXPECT_THROW(sum_of_squares({at::zeros({4}, options.dtype(at::kBFloat16))}), ShapeError);
  EXPECT_THROW(sum_of_squares({at::zeros({4, 4}, options).t()}), ShapeError);
}

}  // namespace sum_of_squares_tests
}  // namespace pimoe::checks
