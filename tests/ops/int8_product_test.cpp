/// Int8 products against float64 products of the integers, on the CPU and on a GPU.

#include "ops/int8_product.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <limits>

namespace pimoe {
namespace {

using checks::Random;
using checks::test_device;

constexpr Int8Activations kAll[] = {Int8Activations::kNone, Int8Activations::kDynamic, Int8Activations::kStatic};

at::Tensor ends_of(const std::vector<int32_t>& ends) { return at::tensor(ends, at::kInt).to(test_device()); }

/// The definition, in float64, from the dequantized integers.
at::Tensor plain_product(const at::Tensor& rows, const Int8Matrices& matrices, const std::vector<int32_t>& ends) {
  const at::Tensor in = rows.cpu().to(at::kDouble);
  const at::Tensor weights = matrices.numbers.cpu().to(at::kDouble) * matrices.scales.cpu().to(at::kDouble).unsqueeze(-1);
  at::Tensor output = at::zeros({rows.size(0), weights.size(1)}, at::kDouble);
  int64_t begin = 0;
  for (size_t group = 0; group < ends.size(); ++group) {
    for (int64_t row = begin; row < ends[group]; ++row) {
      at::Tensor factors = in[row];
      if (matrices.activations != Int8Activations::kNone) {
        // The scales are float32 numbers, and so is the quotient that is rounded.
        const at::Tensor values = rows.cpu()[row].to(at::kFloat);
        const float scale = matrices.activations == Int8Activations::kStatic
                                ? matrices.input_scales.cpu()[static_cast<int64_t>(group)].item<float>()
                                : values.abs().max().item<float>() / 127.0F;
        if (scale > 0) factors = (values.to(at::kDouble) / scale).round().clamp(-127, 127) * scale;
      }
      output[row] = at::mv(weights[static_cast<int64_t>(group)], factors);
    }
    begin = ends[group];
  }
  return output;
}

Int8Matrices matrices_of(const at::Tensor& weights, Int8Activations activations) {
  const Int8Numbers numbers = int8_numbers(weights.to(at::kFloat).contiguous().to(test_device()));
  return {.numbers = numbers.numbers,
          .scales = numbers.scales,
          .input_scales = at::full({weights.size(0)}, 0.03, at::kFloat).to(test_device()),
          .activations = activations};
}

// Whole numbers whose largest is 127 are what int8 makes of them, with scales of one: every sum is exact.
TEST(Int8Product, IntegersAreExactWhateverTheShapes) {
  Random random;
  SCOPED_TRACE(random.trace());
  const auto integers = [&](at::IntArrayRef sizes) {
    at::Tensor values = (random.normal(sizes) * 50).round().clamp(-127, 127);
    if (values.numel() > 0) values.select(-1, 0).fill_(127);
    return values;
  };
  for (const int64_t terms : {1, 3, 4, 65, 130, 256}) {
    for (const int64_t columns : {1, 3, 64, 200}) {
      const std::vector<int32_t> ends = {0, 1, 1, 5, 14, 40, 120};
      const at::Tensor rows = integers({123, terms});
      for (const Int8Activations activations : kAll) {
        Int8Matrices matrices = matrices_of(integers({7, columns, terms}), activations);
        matrices.input_scales.fill_(1.0);
        const at::Tensor wanted = plain_product(rows, matrices, ends);
        for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
          const at::Tensor result = int8_linear(rows.to(dtype).to(test_device()), matrices, ends_of(ends), at::kFloat).cpu();
          ASSERT_TRUE(at::equal(result.to(at::kDouble), wanted))
              << "terms " << terms << ", columns " << columns << ", " << dtype << ", activations " << static_cast<int>(activations)
              << ", apart by " << (result - wanted).abs().max().item<double>();
        }
      }
    }
  }
}

TEST(Int8Product, IsTheProductOfTheRoundedNumbers) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const std::vector<int32_t>& ends : {std::vector<int32_t>{0, 0}, {3, 3}, {0, 1}, {70, 590}, {590, 590}}) {
    const at::Tensor rows = random.normal({600, 96});
    for (const Int8Activations activations : kAll) {
      const Int8Matrices matrices = matrices_of(random.normal({2, 80, 96}), activations);
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const at::Tensor in = rows.to(dtype);
        const at::Tensor result = int8_linear(in.to(test_device()), matrices, ends_of(ends), at::kFloat).cpu().to(at::kDouble);
        const at::Tensor wanted = plain_product(in, matrices, ends);
        // A quotient that lies between two whole numbers may be rounded either way: one step of one factor.
        const double step = activations == Int8Activations::kNone ? 0.0 : 0.06 * 3.5;
        EXPECT_LE((result - wanted).abs().max().item<double>(), 2e-4 + step)
            << ends << " " << dtype << " " << static_cast<int>(activations);
        EXPECT_LE((result - wanted).abs().mean().item<double>(), activations == Int8Activations::kNone ? 2e-4 : 0.02)
            << ends << " " << dtype << " " << static_cast<int>(activations);
      }
    }
  }
}

TEST(Int8Product, TakesTheSameKernelForOneRowAsForMany) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const Int8Activations activations : kAll) {
    const Int8Matrices matrices = matrices_of(random.normal({1, 192, 160}), activations);
    const at::Tensor rows = random.normal({100, 160}).to(at::kBFloat16).to(test_device());
    const at::Tensor together = int8_linear(rows, matrices, ends_of({100}), at::kFloat);
    for (int64_t row = 0; row < 100; row += 33) {
      const at::Tensor alone = int8_linear(rows.narrow(0, row, 1), matrices, ends_of({1}), at::kFloat);
      EXPECT_TRUE(at::allclose(alone, together.narrow(0, row, 1), 1e-5, 1e-4)) << static_cast<int>(activations);
    }
    for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
      EXPECT_TRUE(at::equal(int8_linear(rows, matrices, ends_of({100}), dtype), together.to(dtype))) << static_cast<int>(activations);
    }
  }
}

TEST(Int8Numbers, AreWithinHalfAScaleOfWhatTheyWere) {
  Random random;
  SCOPED_TRACE(random.trace());
  at::Tensor values = random.normal({5, 7, 33}).to(at::kFloat);
  values[1].fill_(0);      // channels of zeros
  values[2][3][4] = 1e30;  // an outlier beside which all else is nothing
  values[3][0].fill_(1e-30);
  const Int8Numbers numbers = int8_numbers(values.to(test_device()));
  const at::Tensor apart = (from_int8(numbers) - values.to(test_device())).abs();
  EXPECT_TRUE((apart <= numbers.scales.unsqueeze(-1) * 0.5001).all().item<bool>());
  EXPECT_TRUE((numbers.scales[1] == 0).all().item<bool>());
  EXPECT_TRUE((numbers.numbers[1] == 0).all().item<bool>());
  EXPECT_EQ(numbers.numbers.min().item<int64_t>() < -127, false);
}

TEST(Int8Product, ZerosAndOutliersStayWhatTheyAre) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const Int8Activations activations : {Int8Activations::kNone, Int8Activations::kDynamic}) {
    at::Tensor weights = random.normal({1, 70, 64});
    weights[0][69].fill_(0);
    const Int8Matrices matrices = matrices_of(weights, activations);
    at::Tensor rows = random.normal({20, 64});
    rows[3].fill_(0);
    rows[4].fill_(1e-25);
    rows[5][7] = 1e20;
    const at::Tensor result = int8_linear(rows.to(at::kFloat).to(test_device()), matrices, ends_of({20}), at::kFloat).cpu();
    EXPECT_TRUE((result[3] == 0).all().item<bool>());
    EXPECT_TRUE((result.select(1, 69) == 0).all().item<bool>());
    EXPECT_TRUE(at::allclose(result.to(at::kDouble), plain_product(rows.to(at::kFloat), matrices, {20}), 0.05, 0.2));
  }
}

TEST(Int8Product, WhatIsNotFiniteIsSeenInItsOwnRowAlone) {
  for (const Int8Activations activations : kAll) {
    for (const int64_t count : {3, 40}) {
      const Int8Matrices matrices = matrices_of(at::ones({1, 70, 65}), activations);
      at::Tensor rows = at::ones({count, 65}, at::kFloat);
      rows[1][3] = std::numeric_limits<float>::quiet_NaN();
      rows[2][64] = std::numeric_limits<float>::infinity();
      const at::Tensor result = int8_linear(rows.to(test_device()), matrices, ends_of({static_cast<int32_t>(count)}), at::kFloat).cpu();
      EXPECT_FALSE(result[1].isfinite().any().item<bool>());
      EXPECT_FALSE(result[2].isfinite().any().item<bool>());
      EXPECT_TRUE(result[0].isfinite().all().item<bool>());
    }
  }
}

TEST(Int8Product, RowsPastTheLastEndAreZeros) {
  const Int8Matrices matrices = matrices_of(at::ones({2, 5, 6}), Int8Activations::kDynamic);
  const at::Tensor result = int8_linear(at::ones({4, 6}, at::kFloat).to(test_device()), matrices, ends_of({1, 2}), at::kBFloat16).cpu();
  EXPECT_TRUE((result.narrow(0, 2, 2) == 0).all().item<bool>());
  EXPECT_EQ(result[1][4].item<float>(), 6.0F);
  EXPECT_EQ(int8_linear(at::ones({0, 6}, at::kFloat).to(test_device()), matrices, ends_of({0, 0}), at::kFloat).size(0), 0);
}

TEST(Int8Product, ShapesThatDoNotFitAreRefused) {
  const Int8Matrices matrices = matrices_of(at::ones({2, 5, 6}), Int8Activations::kNone);
  const at::Tensor rows = at::ones({4, 6}, at::kFloat).to(test_device());
  EXPECT_THROW(int8_linear(rows, matrices, ends_of({4}), at::kFloat), ShapeError);
  EXPECT_THROW(int8_linear(rows, matrices, ends_of({3, 5}), at::kFloat), ShapeError);
  EXPECT_THROW(int8_linear(rows, matrices, ends_of({3, 2}), at::kFloat), ShapeError);
  EXPECT_THROW(int8_linear(rows.narrow(1, 0, 5), matrices, ends_of({3, 4}), at::kFloat), ShapeError);
}

TEST(Int8Kernel, OfAStrangeDeviceIsRefusedUnlessAPlainLoopWasAskedFor) {
  EXPECT_THROW(int8_kernel(Int8Activations::kDynamic, at::kFloat, at::kMeta, false), ConfigError);
  EXPECT_EQ(int8_kernel(Int8Activations::kDynamic, at::kFloat, at::kMeta, true).substr(0, 9), "reference");
}

}  // namespace
}  // namespace pimoe
