#include "ops/normed_rotary.h"

#include "base/errors.h"
#include "ops/op_checks.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"

namespace pimoe::checks {
namespace normed_rotary_tests {

constexpr double kEpsilon = 1e-5;

struct Sizes {
  int64_t sequences, positions, queries, kv_heads, width;
};

/// Within a chunk of the weights' gradients and over several, as many queries as keys and more, odd halves, and no sequence at all; halves of a
/// power of two lanes and of other numbers, a head of the widest that lanes hold in packs, one past it, and more heads than a block takes at a time.
const std::vector<Sizes>& all_sizes() {
  static const std::vector<Sizes> sizes = {{2, 5, 4, 2, 8},   {1, 1, 1, 1, 2},   {3, 70, 2, 2, 6},    {0, 4, 2, 1, 4},
                                           {1, 3, 2, 0, 4},   {2, 9, 3, 1, 128}, {1, 4, 1, 1, 700},   {2, 67, 5, 2, 24},
                                           {1, 3, 2, 1, 256}, {1, 3, 2, 1, 264}, {2, 33, 37, 3, 128}, {3, 43, 2, 1, 14}};
  return sizes;
}

struct Angles {
  at::Tensor cosine, sine;  ///< [S, d/2] float64
};
Angles angles(Random& random, const Sizes& s) {
  const at::Tensor angle = random.normal({s.positions, s.width / 2});
  return {angle.cos(), angle.sin()};
}

std::vector<Input> inputs_of(Random& random, const Sizes& s) {
  return {{random.normal({s.sequences, s.positions, s.queries + 2 * s.kv_heads, s.width})},
          {random.normal({s.width}), /*is_arithmetic=*/true},
          {random.normal({s.width}), /*is_arithmetic=*/true}};
}

Operation fused(const Angles& by, const Sizes& s) {
  return [=](const std::vector<at::Tensor>& inputs) {
    const at::ScalarType dtype = arithmetic_of(inputs[0].scalar_type());
    return joined(normed_rotary(inputs[0], inputs[1], inputs[2], kEpsilon, on_device(by.cosine, dtype), on_device(by.sine, dtype),
                                s.queries, s.kv_heads));
  };
}

/// The operations that it stands for, in float64.
Operation one_after_the_other(const Angles& by, const Sizes& s) {
  return [=](const std::vector<at::Tensor>& inputs) {
    const auto parts = inputs[0].split_with_sizes({s.queries, s.kv_heads, s.kv_heads}, 2);
    const at::Tensor normed =
        at::cat({rms_norm(parts[0].contiguous(), inputs[1], kEpsilon), rms_norm(parts[1].contiguous(), inputs[2], kEpsilon), parts[2]}, 2);
    return joined(rotary(normed, on_device(by.cosine, at::kDouble), on_device(by.sine, at::kDouble), s.queries, s.kv_heads));
  };
}

TEST(NormedRotary, IsNormsAndThenRotaryAtAnySizeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const Sizes& sizes : all_sizes()) {
    const Angles by = angles(random, sizes);
    const std::vector<Input> inputs = inputs_of(random, sizes);
    const at::Tensor factors = random.normal(inputs[0].values.sizes());
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(concat(dtype, " ", inputs[0].values.sizes()));
      const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
      std::vector<Input> rounded;
      for (size_t i = 0; i < inputs.size(); ++i) rounded.push_back({on_host(tensors[i]), inputs[i].is_arithmetic});
      const at::Tensor rounded_factors = on_host(on_device(factors, dtype));
      const auto doubles = leaves(rounded, at::kDouble);
      expect_close(fused(by, sizes)(tensors), one_after_the_other(by, sizes)(doubles), tolerance_of(dtype), 2.0);
      const auto expected = gradients(one_after_the_other(by, sizes), doubles, rounded_factors);
      const auto grads = gradients(fused(by, sizes), tensors, rounded_factors);
      for (size_t i = 0; i < grads.size(); ++i) {
        SCOPED_TRACE(concat("gradient of input ", i));
        const double largest = expected[i].numel() == 0 ? 0.0 : expected[i].abs().max().item<double>();
        expect_close(grads[i], expected[i], 2 * tolerance_of(dtype), 1.0 + largest);
      }
    }
  }
}

TEST(NormedRotary, GradientsAreThoseOfTheFormula) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const Sizes& sizes : {Sizes{2, 3, 2, 1, 4}, Sizes{1, 2, 1, 1, 6}}) {
    check_gradients(fused(angles(random, sizes), sizes), inputs_of(random, sizes), random);
  }
}

TEST(NormedRotary, GradientsOfAnyLayoutGiveTheSameBits) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const int64_t width : {6, 64}) {
    const Sizes sizes{2, 37, 3, 2, width};
    const Angles by = angles(random, sizes);
    const std::vector<Input> inputs = inputs_of(random, sizes);
    const at::Tensor factors = random.normal(inputs[0].values.sizes());
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(concat(dtype, " d ", width));
      const at::ScalarType wide = arithmetic_of(dtype);
      check_gradient_layouts(inputs[0].values, factors, dtype, sizes.queries, sizes.kv_heads, [&](const at::Tensor& heads) {
        return normed_rotary(heads, on_device(inputs[1].values, wide), on_device(inputs[2].values, wide), kEpsilon,
                             on_device(by.cosine, wide), on_device(by.sine, wide), sizes.queries, sizes.kv_heads);
      });
    }
  }
}

TEST(NormedRotary, RefusesOtherShapes) {
  Random random;
  const Sizes sizes{1, 3, 2, 1, 4};
  const Angles by = angles(random, sizes);
  const auto with = [&](size_t input, const at::Tensor& other) {
    std::vector<at::Tensor> tensors = leaves(inputs_of(random, sizes), at::kFloat);
    tensors[input] = on_device(other, at::kFloat);
    return [=] { fused(by, sizes)(tensors); };
  };
  EXPECT_THROW(with(0, at::zeros({1, 3, 5, 4}))(), ShapeError);
  EXPECT_THROW(with(0, at::zeros({1, 2, 4, 4}))(), ShapeError);
  EXPECT_THROW(with(0, at::zeros({1, 3, 4, 6}))(), ShapeError);
  EXPECT_THROW(with(1, at::zeros({3}))(), ShapeError);
  EXPECT_THROW(with(2, at::zeros({4, 1}))(), ShapeError);
}

}  // namespace normed_rotary_tests
}  // namespace pimoe::checks
