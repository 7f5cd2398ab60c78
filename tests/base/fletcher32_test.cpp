#include "base/fletcher32.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace pimoe {
namespace {

/// HDF5's loop, word by word.
uint32_t plain(const std::vector<uint8_t>& bytes) {
  const auto fold = [](uint32_t sum) { return (sum & 0xffff) + (sum >> 16); };
  uint32_t first = 0;
  uint32_t second = 0;
  for (size_t i = 0; i < bytes.size(); i += 2) {
    first = fold(first + (static_cast<uint32_t>(bytes[i]) << 8 | (i + 1 < bytes.size() ? bytes[i + 1] : 0)));
    second = fold(second + first);
  }
  return fold(second) << 16 | fold(first);
}

TEST(Fletcher32, EqualsTheLoopForEveryLength) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (size_t length = 0; length < 1200; ++length) {
    std::vector<uint8_t> bytes(length);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    ASSERT_EQ(fletcher32(bytes.data(), bytes.size()), plain(bytes)) << length;
  }
}

// Sums that are multiples of 65535 are not 0, sums of nothing are.
TEST(Fletcher32, TellsZerosFromOnes) {
  for (const size_t length : {1u, 2u, 3u, 255u, 256u, 257u, 1u << 20, (1u << 20) + 2}) {
    const std::vector<uint8_t> zeros(length, 0);
    EXPECT_EQ(fletcher32(zeros.data(), length), 0u) << length;
    const std::vector<uint8_t> ones(length, 0xff);
    EXPECT_EQ(fletcher32(ones.data(), length), plain(ones)) << length;
  }
  EXPECT_EQ(fletcher32(std::vector<uint8_t>{0xff, 0xff}.data(), 2), 0xffffffffu);
}

}  // namespace
}  // namespace pimoe
