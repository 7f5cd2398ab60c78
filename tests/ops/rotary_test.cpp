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

Operation rotation(const Angles& by, int64_t queries, int64_t kv_heads) {
  return [=](const std::vector<at::Tensor>& inputs) {
    const at::ScalarType dtype = arithmetic_of(inputs[0].scalar_type());
    return joined(rotary(inputs[0], on_device(by.cosine, dtype), on_device(by.sine, dtype), queries, kv_heads));
  };
}

// One position, three heads of width 4: a query, a key and a value, which is copied; a quarter turn for the first pair, none for the second.
TEST(Rotary, TurnsHalvesAgainstEachOtherAndCopiesValues) {
  const auto table = [](std::vector<double> values, at::IntArrayRef sizes) {
    return on_device(at::tensor(values, at::kDouble).view(sizes), at::kDouble);
  };
  const at::Tensor heads = table({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {1, 1, 3, 4});
  const AttentionHeads out = rotary(heads, table({0, 1}, {1, 2}), table({1, 0}, {1, 2}), /*queries=*/1, /*kv_heads=*/1);
  expect_close(out.queries, table({-3, 2, 1, 4}, {1, 1, 1, 4}), 0.0);
  expect_close(out.keys, table({-7, 6, 5, 8}, {1, 1, 1, 4}), 0.0);
  expect_close(out.values, table({9, 10, 11, 12}, {1, 1, 1, 4}), 0.0);
}

TEST(Rotary, MatchesPlainLoopsAtAnyShapeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const std::vector<int64_t>& shape :
         std::vector<std::vector<int64_t>>{{0, 3, 2, 4}, {1, 1, 1, 2}, {2, 5, 3, 6}, {2, 7, 4, 64}, {3, 5, 9, 128}}) {
      for (int64_t kv_heads = 0; 2 * kv_heads <= shape[2]; ++kv_heads) {
        SCOPED_TRACE(concat(dtype, " ", at::IntArrayRef(shape), " kv ", kv_heads));
        const int64_t rotated = shape[2] - kv_heads;
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
        expect_close(rotation(by, rotated - kv_heads, kv_heads)({heads}), expected, tolerance_of(dtype));
      }
    }
  }
}

TEST(Rotary, GradientTurnsBack) {
  Random random;
  SCOPED_TRACE(random.trace());
  check_gradients(rotation(angles(random, 3, 2), 1, 1), {{random.normal({2, 3, 3, 4})}}, random);
  check_gradients(rotation(angles(random, 2, 8), 1, 0), {{random.normal({1, 2, 1, 16})}}, random);
}

TEST(Rotary, GradientsOfAnyLayoutGiveTheSameBits) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const int64_t width : {6, 64}) {
    const Angles by = angles(random, 5, width / 2);
    const at::Tensor values = random.normal({2, 5, 7, width});
    const at::Tensor factors = random.normal({2, 5, 7, width});
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(concat(dtype, " d ", width));
      const at::ScalarType wide = arithmetic_of(dtype);
      check_gradient_layouts(values, factors, dtype, 3, 2, [&](const at::Tensor& heads) {
        return rotary(heads, on_device(by.cosine, wide), on_device(by.sine, wide), 3, 2);
      });
    }
  }
}

TEST(Rotary, RefusesAnglesOfOtherPositionsAndHeadsThatAreNotThere) {
  const auto options = at::TensorOptions().device(test_device());
  const at::Tensor heads = at::zeros({1, 3, 2, 4}, options);
  const at::Tensor right = at::zeros({3, 2}, options);
  EXPECT_THROW(rotary(heads, at::zeros({4, 2}, options), right, 2, 0), ShapeError);
  EXPECT_THROW(rotary(heads, right, right, 1, 1), ShapeError);
  EXPECT_THROW(rotary(heads, right, right, 4, -1), ShapeError);
  EXPECT_THROW(rotary(heads, right.to(at::kDouble), right, 2, 0), ShapeError);
  EXPECT_THROW(rotary(at::zeros({1, 3, 2, 5}, options), right, right, 2, 0), ShapeError);
}

}  // namespace rotary_tests
}  // namespace pimoe::checks
