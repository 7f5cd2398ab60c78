#pragma once

/// Counter-based random numbers: a draw is a function of (key, index) and nothing else, so that every layout, every rank and every
/// resumed run draws the same. Never keyed by rank.

#include <array>
#include <cstdint>
#include <string_view>

namespace pimoe {

/// @returns a key for one purpose of one run: named_key(1234, "layers.0.attention.qkv"). Different names give independent streams.
uint64_t named_key(uint64_t seed, std::string_view name);

/// Philox4x32-10: four independent 32-bit words for each (key, counter).
/// @source Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter);

/// The same with the paper's own words of key and counter, lowest first; philox leaves the counter's upper two at 0.
std::array<uint32_t, 4> philox_words(std::array<uint32_t, 2> key, std::array<uint32_t, 4> counter);

/// @returns 64 random bits for (key, index).
uint64_t random_bits(uint64_t key, uint64_t index);

/// @returns a number in [0, 1) with 53 random bits.
double random_uniform(uint64_t key, uint64_t index);

/// Writes standard normal values of elements [begin, begin + count) of the stream `key` (Box-Muller in float64).
/// Element i has the same value in whatever pieces the stream is asked for.
/// @cost about 15 ns an element on one thread.
void random_normal(uint64_t key, uint64_t begin, int64_t count, double* out);

/// A pseudorandom permutation of [0, size) in O(1) memory: permuted(i) is a bijection for each key (Feistel network with cycle walking).
class Permutation {
 public:
  /// @param size at least 1
  Permutation(uint64_t key, uint64_t size);
  /// @param index  below size  @returns its image, below size  @cost 60 to 240 ns
  uint64_t operator()(uint64_t index) const;

 private:
  uint64_t key_;
  uint64_t size_;
  int half_bits_;
};

}  // namespace pimoe
