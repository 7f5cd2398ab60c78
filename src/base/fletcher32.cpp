#include "base/fletcher32.h"

namespace pimoe {
namespace {

constexpr size_t kBlock = 128;  // words: sum of word * weight, at most 65535 * 128 * 129 / 2, stays below 2^32

uint32_t word_at(const unsigned char* bytes) { return static_cast<uint32_t>(bytes[0]) << 8 | bytes[1]; }

/// As folding carries in does it: 65535 stays, and only a sum of nothing is 0.
uint32_t modulo_65535(uint64_t sum) { return sum == 0 ? 0 : static_cast<uint32_t>((sum - 1) % 65535) + 1; }

}  // namespace

uint32_t fletcher32(const void* bytes, size_t count) {
  const auto* at = static_cast<const unsigned char*>(bytes);
  uint64_t first = 0;   // of the words
  uint64_t second = 0;  // of `first` after each word: a word counts as often as words are left, itself included
  size_t words = count / 2;
  for (; words >= kBlock; words -= kBlock, at += 2 * kBlock) {
    uint32_t sum = 0;
    uint32_t weighted = 0;
    for (uint32_t i = 0; i < kBlock; ++i) {
      const uint32_t word = word_at(at + 2 * i);
      sum += word;
      weighted += word * static_cast<uint32_t>(kBlock - i);
    }
    second = modulo_65535(second + kBlock * first + weighted);
    first = modulo_65535(first + sum);
  }
  for (; words > 0; --words, at += 2) {
    first += word_at(at);
    second += first;
  }
  if (count % 2 != 0) {
    first += static_cast<uint32_t>(*at) << 8;
    second += first;
  }
  return modulo_65535(second) << 16 | modulo_65535(first);
}

}  // namespace pimoe
