#include "base/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "base/errors.h"

namespace pimoe {
namespace {

constexpr uint64_t kSeed = 20240601;

std::vector<double> normals(uint64_t key, uint64_t begin, int64_t count) {
  std::vector<double> values(static_cast<size_t>(count));
  random_normal(key, begin, count, values.data());
  return values;
}

// Known answers of the Random123 library, kat_vectors, "philox 4 32 10".
TEST(Philox, GivesThePublishedWords) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox_words({0, 0}, {0, 0, 0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox_words({0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox_words({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, SplitsKeyAndCounterLowestWordFirst) {
  EXPECT_EQ(philox(0, 0), philox_words({0, 0}, {0, 0, 0, 0}));
  EXPECT_EQ(philox(0x0000000200000001, 0x0000000400000003), philox_words({1, 2}, {3, 4, 0, 0}));
}

TEST(NamedKey, DependsOnSeedAndOnEveryByteOfTheName) {
  std::set<uint64_t> keys;
  size_t asked = 0;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, kSeed, UINT64_MAX}) {
    for (const std::string& name : {std::string(), std::string("a"), std::string("a\0", 2), std::string("\0a", 2), std::string("ab"),
                                    std::string("ba"), std::string("12345678"), std::string("123456789"), std::string("923456781"),
                                    std::string("layers.0.norm"), std::string("layers.1.norm"), std::string("\xff\xff")}) {
      keys.insert(named_key(seed, name));
      ++asked;
    }
  }
  EXPECT_EQ(keys.size(), asked);
}

TEST(NamedKey, NeverChanges) {
  // Every model's first values hang on these: another key is another model.
  EXPECT_EQ(named_key(0, ""), 0xe169c58d6627e8d5u);  // philox(0, 0), its first two words
  EXPECT_EQ(named_key(1234, "layers.0.attention.qkv"), 7583575527894024031u);
}

TEST(RandomBits, AreTheFirstTwoWordsLowestFirst) { EXPECT_EQ(random_bits(0, 0), 0xe169c58d6627e8d5u); }

TEST(RandomUniform, LiesInTheUnitIntervalAndIsFlat) {
  constexpr int kDraws = 100'000;
  std::array<int, 10> histogram{};
  for (uint64_t i = 0; i < kDraws; ++i) {
    const double value = random_uniform(kSeed, i);
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
    ++histogram[static_cast<size_t>(value * 10)];
  }
  // Chi-square with 9 degrees of freedom: 27.9 is passed by chance once in a thousand seeds; this seed is fixed.
  double chi_square = 0;
  for (const int count : histogram) chi_square += std::pow(count - kDraws / 10.0, 2) / (kDraws / 10.0);
  EXPECT_LT(chi_square, 27.9) << "seed " << kSeed;
}

TEST(RandomUniform, IsTheTopBitsOverTwoToThe53) {
  EXPECT_EQ(random_uniform(0, 0), static_cast<double>(0xe169c58d6627e8d5u >> 11) / 9007199254740992.0);
}

TEST(RandomNormal, ElementDoesNotDependOnThePieceItIsAskedIn) {
  const std::vector<double> whole = normals(kSeed, 0, 41);
  for (uint64_t begin = 0; begin < 12; ++begin) {
    for (int64_t count = 0; count <= 29; ++count) {
      const auto first = whole.begin() + static_cast<std::ptrdiff_t>(begin);
      EXPECT_EQ(normals(kSeed, begin, count), std::vector<double>(first, first + count)) << "begin " << begin << ", count " << count;
    }
  }
}

TEST(RandomNormal, WritesNothingBeyondItsCount) {
  std::vector<double> values(8, -100.0);
  random_normal(kSeed, 2, 3, values.data());
  for (size_t i = 3; i < values.size(); ++i) EXPECT_EQ(values[i], -100.0);
}

TEST(RandomNormal, TakesLaneOfCounterByBoxMuller) {
  const auto words = philox(kSeed, 1);  // elements 4 to 7
  const double unit = std::pow(2.0, -32);
  const double pi = std::acos(-1.0);
  const double radius = std::sqrt(-2 * std::log((words[2] + 1.0) * unit));
  const std::vector<double> values = normals(kSeed, 4, 4);
  EXPECT_NEAR(values[2], radius * std::cos(2 * pi * words[3] * unit), 1e-12);
  EXPECT_NEAR(values[3], radius * std::sin(2 * pi * words[3] * unit), 1e-12);
}

TEST(RandomNormal, HasTheMomentsOfTheNormalDistribution) {
  constexpr int64_t kDraws = 200'000;
  double sum = 0;
  double squares = 0;
  double fourth = 0;
  double neighbours = 0;
  const std::vector<double> values = normals(named_key(kSeed, "moments"), 0, kDraws);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_TRUE(std::isfinite(values[i]));
    sum += values[i];
    squares += values[i] * values[i];
    fourth += std::pow(values[i], 4);
    if (i > 0) neighbours += values[i] * values[i - 1];
  }
  // Five standard errors each: 1, sqrt 2, sqrt 96 and 1 over sqrt n.
  const double error = 5 / std::sqrt(static_cast<double>(kDraws));
  EXPECT_NEAR(sum / kDraws, 0, error) << "seed " << kSeed;
  EXPECT_NEAR(squares / kDraws, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(fourth / kDraws, 3, error * std::sqrt(96.0));
  EXPECT_NEAR(neighbours / kDraws, 0, error);
}

TEST(Permutation, IsABijectionForEverySizeAndKey) {
  for (uint64_t size = 1; size <= 300; ++size) {
    for (const uint64_t key : {uint64_t{0}, kSeed}) {
      const Permutation permuted(key, size);
      std::vector<bool> seen(size, false);
      for (uint64_t i = 0; i < size; ++i) {
        const uint64_t image = permuted(i);
        ASSERT_LT(image, size) << "key " << key << ", size " << size << ", index " << i;
        ASSERT_FALSE(seen[image]) << "key " << key << ", size " << size << ", index " << i;
        seen[image] = true;
      }
    }
  }
}

TEST(Permutation, StaysInsideSizesBeyond32Bits) {
  for (const uint64_t size : {(uint64_t{1} << 40) + 12345, uint64_t{1} << 62, UINT64_MAX}) {
    const Permutation permuted(kSeed, size);
    std::set<uint64_t> images;
    for (uint64_t i = 0; i < 1000; ++i) images.insert(permuted(size - 1 - i));
    EXPECT_EQ(images.size(), 1000u) << "size " << size;
    EXPECT_LT(*images.rbegin(), size);
    EXPECT_GT(*images.rbegin(), size / 2) << "all images in the lower half";
  }
}

TEST(Permutation, DependsOnItsKey) {
  int moved = 0;
  for (uint64_t i = 0; i < 1000; ++i) moved += Permutation(1, 1000)(i) != Permutation(2, 1000)(i) ? 1 : 0;
  EXPECT_GT(moved, 980);
}

TEST(Permutation, SendsAnElementEverywhereWithEqualChance) {
  constexpr uint64_t kSize = 11;
  constexpr int kKeys = 11'000;
  std::vector<int> histogram(kSize, 0);
  for (uint64_t key = 0; key < kKeys; ++key) ++histogram[Permutation(named_key(kSeed, std::to_string(key)), kSize)(3)];
  // Binomial: mean 1000, standard deviation 30; five of them.
  for (uint64_t image = 0; image < kSize; ++image) EXPECT_NEAR(histogram[image], 1000, 150) << "image " << image << ", seed " << kSeed;
}

TEST(Permutation, RefusesNoElements) { EXPECT_THROW(Permutation(1, 0), Error); }

}  // namespace
}  // namespace pimoe
