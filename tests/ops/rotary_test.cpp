#include "ops/rotary.h"

#include "base/errors.h"
#include "ops/op_checks.h"

namespace pimoe::checks {
namespace rotary_tests {

struct Angles {
  at::Tensor cosine, sine;  ///< [S, d/2] float64
};

Angles angles(Random& random, int64_t positions, int64_t half) {
  const at::Tensor angle = random.normal({positions, half});
  return {angle.cos(), angle.sin()};
}

Operation rotation(const Angles& by, int64_t rotated_heads) {
  return [=](const std::vector<at::Tensor>& inputs) {
    const at::ScalarType dtype = arithmetic_of(inputs[0].scalar_type());
    return rotary(inputs[0], on_device(by.cosine, dtype), on_device(by.sine, dtype), rotated_heads);
  };
}

// One position, two heads of width 4; a quarter turn for the first pair, none for the second. The second head is copied.
TEST(Rotary, TurnsHalvesAgainstEachOtherAndCopiesTheRest) {
  const auto table = [](std::vector<double> values, at::IntArrayRef sizes) {
    return on_device(at::tensor(values, at::kDouble).view(sizes), at::kDouble);
  };
  const at::Tensor heads = table({1, 2, 3, 4, 5, 6, 7, 8}, {1, 1, 2, 4});
  const at::Tensor out = rotary(heads, table({0, 1}, {1, 2}), table({1, 0}, {1, 2}), /*rotated_heads=*/1);
  expect_close(out, table({-3, 2, 1, 4, 5, 6, 7, 8}, {1, 1, 2, 4}), 0.0);
}

TEST(Rotary, MatchesPlainLoopsAtAnyShapeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{0, 3, 2, 4}, {1, 1, 1, 2}, {2, 5, 3, 6}, {2, 7, 4, 64}}) {
      for (int64_t rotated = 0; rotated <= shape[2]; ++rotated) {
        SCOPED_TRACE(concat(dtype, " ", at::IntArrayRef(shape), " rotated ", rotated));
        const int64_t half = shape[3] / 2;
        const Angles by = angles(random, shape[1], half);
        const at::Tensor heads = on_device(random.normal(shape), dtype);
        const at::Tensor in = on_host(heads);
        at::Tensor expected = in.clone();
        auto x = in.accessor<double, 4>();
        auto y = expected.accessor<double, 4>();
        auto c = by.cosine.accessor<double, 2>();
        auto s = by.sine.accessor<double, 2>();
        for (int64_t b = 0; b < shape[0]; ++b) {
          for (int64_t p = 0; p < shape[1]; ++p) {
            for (int64_t h = 0; h < rotated; ++h) {
              for (int64_t i = 0; i < half; ++i) {
                y[b][p][h][i] = x[b][p][h][i] * c[p][i] - x[b][p][h][i + half] * s[p][i];
                y[b][p][h][i + half] = x[b][p][h][i + half] * c[p][i] + x[b][p][h][i] * s[p][i];
              }
            }
          }
        }
        expect_close(rotation(by, rotated)({heads}), expected, tolerance_of(dtype));
      }
    }
  }
}

TEST(Rotary, GradientTurnsBack) {
  Random random;
  SCOPED_TRACE(random.trace());
  check_gradients(rotation(angles(random, 3, 2), 2), {{random.normal({2, 3, 3, 4})}}, random);
  check_gradients(rotation(angles(random, 2, 8), 1), {{random.normal({1, 2, 1, 16})}}, random);
}

TEST(Rotary, RefusesAnglesOfOtherPositionsAndHeadsThatAreNotThere) {
  const auto options = at::TensorOptions().device(test_device());
  const at::Tensor heads = at::zeros({1, 3, 2, 4}, options);
  const at::Tensor right = at::zeros({3, 2}, options);
  EXPECT_THROW(rotary(heads, at::zeros({4, 2}, options), right, 1), ShapeError);
  EXPECT_THROW(rotary(heads, right, right, 3), ShapeError);
  EXPECT_THROW(rotary(heads, right.to(at::kDouble), right, 1), ShapeError);
  EXPECT_THROW(rotary(at::zeros({1, 3, 2, 5}, options), right, right, 1), ShapeError);
}

}  // namespace rotary_tests
}  // namespace pimoe::checks
