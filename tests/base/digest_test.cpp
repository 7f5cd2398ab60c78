#include "base/digest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace pimoe {
namespace {

// Vectors of FIPS 180-4's examples.
TEST(Sha256, GivesThePublishedDigests) {
  EXPECT_EQ(sha256("", 0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc", 3), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string million(1'000'000, 'a');
  EXPECT_EQ(sha256(million.data(), million.size()), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, IsTheSameInWhateverPartsTheBytesCome) {
  const std::string text = "The parts of a checkpoint are digested while they are written.";
  const std::string whole = sha256(text.data(), text.size());
  for (size_t part = 1; part <= text.size(); ++part) {
    Sha256 digest;
    for (size_t at = 0; at < text.size(); at += part) digest.update(text.data() + at, std::min(part, text.size() - at));
    digest.update(nullptr, 0);
    EXPECT_EQ(digest.finish(), whole) << "parts of " << part;
  }
}

TEST(SampledSha256, TakesSmallFilesWholeAndOfLargeOnesSizeBothEndsAndStretchesBetween) {
  std::vector<char> bytes(16 << 20, 'a');
  EXPECT_EQ(sampled_sha256(bytes.data(), bytes.size()), sha256(bytes.data(), bytes.size()));
  EXPECT_EQ(sampled_sha256(nullptr, 0), sha256("", 0));
  bytes.resize(64 << 20, 'a');
  const std::string before = sampled_sha256(bytes.data(), bytes.size());
  EXPECT_NE(sampled_sha256(bytes.data(), bytes.size() - 1), before) << "its size";
  for (const size_t begin : {size_t{0}, bytes.size() / 2, bytes.size() - (1 << 20)}) {
    std::vector<char> changed = bytes;
    std::fill_n(changed.begin() + static_cast<std::ptrdiff_t>(begin), 1 << 20, 'b');
    EXPECT_NE(sampled_sha256(changed.data(), changed.size()), before) << begin;
  }
  std::vector<char> last = bytes;
  last.back() = 'b';
  EXPECT_NE(sampled_sha256(last.data(), last.size()), before);
}

TEST(Fingerprint, IsTheFirst60Bits) {
  EXPECT_EQ(fingerprint("fffffffffffffff0"), (int64_t{1} << 60) - 1);
  EXPECT_EQ(fingerprint("0123456789abcdef"), 0x0123456789abcde);
}

TEST(Sha256, ChangesWithOneBit) {
  std::string bytes(1000, '\0');
  const std::string before = sha256(bytes.data(), bytes.size());
  bytes[500] = 1;
  EXPECT_NE(sha256(bytes.data(), bytes.size()), before);
}

}  // namespace
}  // namespace pimoe
