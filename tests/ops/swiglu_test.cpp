#include "ops/swiglu.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <limits>

namespace pimoe::checks {
namespace swiglu_tests {

double silu(double x) { return x / (1.0 + std::exp(-x)); }

/// hidden [R, F] of gate_up [R, 2F], float64 on the CPU.
at::Tensor reference(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  at::Tensor hidden = at::empty({gate_up.size(0), width}, at::kDouble);
  auto in = gate_up.accessor<double, 2>();
  auto out = hidden.accessor<double, 2>();
  for (int64_t r = 0; r < hidden.size(0); ++r) {
    for (int64_t f = 0; f < width; ++f) out[r][f] = silu(in[r][f]) * in[r][width + f];
  }
  return hidden;
}

/// The slope of the reference by central differences, times the incoming gradient.
at::Tensor reference_gradient(const at::Tensor& grad_hidden, const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  constexpr double kStep = 1e-5;
  at::Tensor grad = at::empty_like(gate_up);
  auto in = gate_up.accessor<double, 2>();
  auto out = grad.accessor<double, 2>();
  auto incoming = grad_hidden.accessor<double, 2>();
  for (int64_t r = 0; r < gate_up.size(0); ++r) {
    for (int64_t f = 0; f < width; ++f) {
      const double slope = (silu(in[r][f] + kStep) - silu(in[r][f] - kStep)) / (2 * kStep);
      out[r][f] = incoming[r][f] * in[r][width + f] * slope;
      out[r][width + f] = incoming[r][f] * silu(in[r][f]);
    }
  }
  return grad;
}

TEST(Swiglu, MatchesPlainLoopsAtAnyShapeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const auto& [rows, width] : {std::pair<int, int>{0, 8}, {1, 1}, {7, 5}, {33, 16}, {20, 40}, {3, 0}, {300, 130}}) {
      SCOPED_TRACE(concat(dtype, " rows ", rows, " width ", width));
      const at::Tensor gate_up = on_device(random.normal({rows, 2 * width}) * 4, dtype);
      const at::Tensor grad_hidden = on_device(random.normal({rows, width}), dtype);
      const at::Tensor hidden = swiglu(gate_up);
      EXPECT_EQ(hidden.scalar_type(), dtype);
      expect_close(hidden, reference(on_host(gate_up)), tolerance_of(dtype));
      const at::Tensor expected = reference_gradient(on_host(grad_hidden), on_host(gate_up));
      expect_close(swiglu_backward_and_hidden(grad_hidden, gate_up).grad_gate_up, expected,
                   dtype == at::kDouble ? 1e-8 : tolerance_of(dtype));
    }
  }
}

TEST(Swiglu, BackwardRepeatsTheBitsOfForward) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    const at::Tensor gate_up = on_device(random.normal({37, 96}), dtype);
    const at::Tensor grad_hidden = on_device(random.normal({37, 48}), dtype);
    expect_same_bits(swiglu_backward_and_hidden(grad_hidden, gate_up).hidden, swiglu(gate_up));
  }
}

TEST(Swiglu, NeverHidesWhatIsNotFinite) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  for (const at::ScalarType dtype : all_dtypes()) {
    SCOPED_TRACE(concat(dtype));
    for (const double bad : {kNan, kInfinity, -kInfinity}) {
      for (const int64_t place : {0, 20, 40, 60}) {
        at::Tensor values = at::ones({1, 80}, at::kDouble);
        values[0][place] = bad;
        const at::Tensor gate_up = on_device(values, dtype);
        const at::Tensor hidden = on_host(swiglu(gate_up));
        EXPECT_EQ((at::isfinite(hidden) == 0).sum().item<int64_t>(), 1) << bad << " at " << place;
        EXPECT_FALSE(std::isfinite(hidden[0][place % 40].item<double>()));
        const at::Tensor grad = on_host(swiglu_backward_and_hidden(on_device(at::ones({1, 40}, at::kDouble), dtype), gate_up).grad_gate_up);
        EXPECT_FALSE(at::isfinite(grad).all().item<bool>()) << bad << " at " << place;
      }
    }
  }
}

TEST(Swiglu, HoldsItsLimitsFarFromZero) {
  for (const at::ScalarType dtype : all_dtypes()) {
    const at::Tensor gate_up = on_device(at::tensor(std::vector<double>{-200, -90, 90, 200, 1, 1, 1, 1}, at::kDouble).view({1, 8}), dtype);
    expect_close(swiglu(gate_up), at::tensor(std::vector<double>{0, 0, 90, 200}, at::kDouble).view({1, 4}), tolerance_of(dtype));
  }
}

TEST(Swiglu, RefusesWhatIsNoGateAndUp) {
  const auto options = at::TensorOptions().device(test_device());
  EXPECT_THROW(swiglu(at::zeros({2, 3}, options)), ShapeError);
  EXPECT_THROW(swiglu(at::zeros({4, 2}, options).t()), ShapeError);
  EXPECT_THROW(swiglu(at::zeros({2, 4}, options.dtype(at::kInt))), ShapeError);
  EXPECT_THROW(swiglu_backward_and_hidden(at::zeros({2, 3}, options), at::zeros({2, 4}, options)), ShapeError);
}

}  // namespace swiglu_tests
}  // namespace pimoe::checks
