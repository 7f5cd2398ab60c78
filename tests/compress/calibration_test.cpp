#include "compress/calibration.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace pimoe {
namespace {

at::Tensor normal(at::IntArrayRef sizes, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> distribution;
  at::Tensor values = at::empty(sizes, at::kFloat);
  for (int64_t i = 0; i < values.numel(); ++i) values.mutable_data_ptr<float>()[i] = distribution(engine);
  return values;
}

float scale_of(const at::Tensor& rows) {
  at::Tensor counts = at::zeros({1, kSizeBins}, at::kLong);
  count_sizes(rows, {}, counts);
  return best_scale(counts[0]);
}

/// What int8 with this scale makes of the numbers, in the mean of squares.
double error_of(const at::Tensor& rows, double scale) {
  const at::Tensor values = rows.to(at::kDouble);
  return ((values / scale).round().clamp(-127, 127) * scale - values).square().mean().item<double>();
}

TEST(Calibration, TheScaleIsAsGoodAsTheBestOfAFineSearch) {
  for (const unsigned seed : {1U, 2U, 3U}) {
    at::Tensor rows = normal({400, 64}, seed);
    if (seed == 2) rows = rows.pow(3);  // long tails
    if (seed == 3) rows[0][0] = 300;    // one outlier
    double best = std::numeric_limits<double>::infinity();
    const double most = rows.abs().max().item<double>() / 127;
    for (double share = 1.0; share > 0.005; share *= 0.99) best = std::min(best, error_of(rows, most * share));
    EXPECT_LE(error_of(rows, scale_of(rows)), 1.1 * best) << "seed " << seed;
  }
}

TEST(Calibration, ScalesGrowWithTheNumbers) {
  const at::Tensor rows = normal({100, 32}, 4);
  EXPECT_FLOAT_EQ(scale_of(rows * 1024), 1024 * scale_of(rows));
}

TEST(Calibration, OfNothingButZerosThereIsNoScale) {
  EXPECT_EQ(scale_of(at::zeros({3, 4}, at::kFloat)), 0.0F);
  EXPECT_EQ(scale_of(at::full({3, 4}, std::numeric_limits<float>::quiet_NaN(), at::kFloat)), 0.0F);
}

// Three experts, of which the second has no row: its bins stay empty, and rows past the last end are nobody's.
TEST(Calibration, EachExpertsRowsAreCountedForItAlone) {
  const at::Tensor rows = at::tensor({1.0F, 1.0F, 2.0F, 2.0F, 0.0F, 3.0F, 9.0F, 9.0F}).view({4, 2});
  at::Tensor counts = at::zeros({3, kSizeBins}, at::kLong);
  count_sizes(rows, at::tensor({2, 2, 3}, at::kInt), counts);
  EXPECT_EQ(counts[0].sum().item<int64_t>(), 4);
  EXPECT_EQ(counts[1].sum().item<int64_t>(), 0);
  EXPECT_EQ(counts[2].sum().item<int64_t>(), 2);
  EXPECT_EQ(counts[2][0].item<int64_t>(), 1) << "the zero";
}

}  // namespace
}  // namespace pimoe
