#include "ops/cpu_math.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace pimoe::cpu {
namespace {

TEST(CpuFormats, ReadEverySixteenBitPatternAsLibtorchDoes) {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const float half = load(Float16{pattern});
    const float expected_half = c10::Half(pattern, c10::Half::from_bits());
    ASSERT_TRUE(to_bits(half) == to_bits(expected_half) || (std::isnan(half) && std::isnan(expected_half))) << "float16 " << bits;
    const float brain = load(BFloat16{pattern});
    const float expected_brain = c10::BFloat16(pattern, c10::BFloat16::from_bits());
    ASSERT_TRUE(to_bits(brain) == to_bits(expected_brain) || (std::isnan(brain) && std::isnan(expected_brain))) << "bfloat16 " << bits;
  }
}

void expect_stored_as_in_libtorch(float value) {
  Float16 half;
  store(&half, value);
  BFloat16 brain;
  store(&brain, value);
  if (std::isnan(value)) {
    EXPECT_TRUE(std::isnan(load(half)) && std::isnan(load(brain)));
    return;
  }
  ASSERT_EQ(half.bits, c10::Half(value).x) << "float16 of " << value;
  ASSERT_EQ(brain.bits, c10::BFloat16(value).x) << "bfloat16 of " << value;
}

TEST(CpuFormats, RoundAsLibtorchDoes) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 engine(seed);
  for (int draw = 0; draw < 1'000'000; ++draw) expect_stored_as_in_libtorch(from_bits(static_cast<uint32_t>(engine())));
  // Every number half way between two neighbours, and those beside it.
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const uint32_t brain_tie = bits << 16 | 0x8000u;
    const float half_value = load(Float16{static_cast<uint16_t>(bits)});
    const float half_next = load(Float16{static_cast<uint16_t>(bits + 1)});
    const uint32_t half_tie = to_bits(std::isfinite(half_next) ? half_value + (half_next - half_value) / 2 : 65520.0f);
    for (const uint32_t near : {brain_tie - 1, brain_tie, brain_tie + 1, half_tie - 1, half_tie, half_tie + 1}) {
      expect_stored_as_in_libtorch(from_bits(near));
    }
  }
}

TEST(CpuExponential, IsWithinTwoUnitsInTheLastPlace) {
  for (float x = -87.0f; x <= 88.0f; x += 0.0007f) {
    const double expected = std::exp(static_cast<double>(x));
    ASSERT_LE(std::abs(exponential(x) - expected), 2.4e-7 * expected) << x;
  }
  EXPECT_EQ(exponential(0.0f), 1.0f);
}

TEST(CpuExponential, HoldsItsEndsAndKeepsNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(exponential(-kInfinity), exponential(-87.0f));
  EXPECT_EQ(exponential(kInfinity), exponential(88.0f));
  EXPECT_TRUE(std::isnan(exponential(std::numeric_limits<float>::quiet_NaN())));
}

TEST(CpuSums, TakeEveryTermOnceAtAnyLength) {
  for (int64_t count = 0; count < 70; ++count) {
    EXPECT_EQ(sum_of<double>(count, [](int64_t i) { return static_cast<double>(i + 1); }), static_cast<double>(count * (count + 1) / 2));
  }
}

}  // namespace
}  // namespace pimoe::cpu
