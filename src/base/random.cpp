#include "base/random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numbers>

#include "base/errors.h"

namespace pimoe {
namespace {

constexpr int kPhiloxRounds = 10;
constexpr int kFeistelRounds = 6;

/// Two normal values from two words: Box-Muller, with the radius' uniform in (0, 1] so that its logarithm is finite.
std::array<double, 2> normal_pair(uint32_t radius_word, uint32_t angle_word) {
  constexpr double kUnit = 1.0 / 4294967296.0;  // 2^-32
  const double radius = std::sqrt(-2.0 * std::log((radius_word + 1.0) * kUnit));
  const double angle = 2.0 * std::numbers::pi * (angle_word * kUnit);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace

std::array<uint32_t, 4> philox_words(std::array<uint32_t, 2> key, std::array<uint32_t, 4> counter) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t left = uint64_t{0xD2511F53} * counter[0];
    const uint64_t right = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(right >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(right),
               static_cast<uint32_t>(left >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(left)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter) {
  return philox_words({static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)},
                      {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0});
}

uint64_t named_key(uint64_t seed, std::string_view name) {
  // Each eight bytes of the name are a counter under the key so far; the length at the end tells "a" from "a\0".
  uint64_t key = seed;
  for (size_t at = 0; at < name.size(); at += 8) {
    uint64_t block = 0;
    for (size_t i = 0; i < std::min<size_t>(8, name.size() - at); ++i) {
      block |= static_cast<uint64_t>(static_cast<unsigned char>(name[at + i])) << (8 * i);
    }
    key = random_bits(key, block);
  }
  return random_bits(key, name.size());
}

uint64_t random_bits(uint64_t key, uint64_t index) {
  const auto words = philox(key, index);
  return (static_cast<uint64_t>(words[1]) << 32) | words[0];
}

double random_uniform(uint64_t key, uint64_t index) { return static_cast<double>(random_bits(key, index) >> 11) * 0x1p-53; }

void random_normal(uint64_t key, uint64_t begin, int64_t count, double* out) {
  const uint64_t end = begin + static_cast<uint64_t>(count);
  for (uint64_t element = begin; element < end;) {
    const auto words = philox(key, element / 4);
    const auto first = normal_pair(words[0], words[1]);
    const auto second = normal_pair(words[2], words[3]);
    const std::array<double, 4> values = {first[0], first[1], second[0], second[1]};
    const uint64_t block_end = std::min(end, (element / 4 + 1) * 4);
    for (; element < block_end; ++element) *out++ = values[element % 4];
  }
}

Permutation::Permutation(uint64_t key, uint64_t size) : key_(key), size_(size), half_bits_((std::bit_width(size - 1) + 1) / 2) {
  if (size == 0) throw Error("a permutation of 0 elements was asked for; it needs at least 1");
}

uint64_t Permutation::operator()(uint64_t index) const {
  const uint64_t half_mask = (uint64_t{1} << half_bits_) - 1;
  // The network permutes [0, 4^half_bits_), at most four times too large: walk on along the cycle until it is back inside.
  do {
    uint64_t left = index >> half_bits_;
    uint64_t right = index & half_mask;
    for (uint64_t round = 0; round < kFeistelRounds; ++round) {
      const uint64_t mixed = left ^ (philox(key_, (round << 32) | right)[0] & half_mask);
      left = right;
      right = mixed;
    }
    index = (left << half_bits_) | right;
  } while (index >= size_);
  return index;
}

}  // namespace pimoe
