#include "serve/text_stream.h"
#include "base/utf8.h"

#include <gtest/gtest.h>

#include <random>

namespace pimoe {
namespace {

TEST(TextStream, HoldsBackACharacterUntilItIsWhole) {
  TextStream stream({});
  EXPECT_EQ(stream.add("a\xE2"), "a");
  EXPECT_EQ(stream.add("\x82"), "");
  EXPECT_EQ(stream.add("\xAC!"), "\xE2\x82\xAC!");
  EXPECT_EQ(stream.add("\xF0\x9F"), "");
  EXPECT_EQ(stream.rest(), "\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(TextStream, PutsAMarkForBytesThatAreNoCharacter) {
  TextStream stream({});
  EXPECT_EQ(stream.add("\xE2(\xFFx"), "\xEF\xBF\xBD(\xEF\xBF\xBDx");
}

TEST(TextStream, CutsAStopTextThatComesInParts) {
  TextStream stream({"END", "\n\n"});
  EXPECT_EQ(stream.add("one\n"), "one");
  EXPECT_EQ(stream.add("two E"), "\ntwo ");
  EXPECT_EQ(stream.add("N"), "");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.add("Done"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.rest(), "");
  EXPECT_EQ(stream.add("more"), "");
}

TEST(TextStream, OfSeveralStopTextsTheFirstInTheTextCounts) {
  TextStream stream({"cd", "b"});
  EXPECT_EQ(stream.add("abcd"), "a");
  EXPECT_TRUE(stream.stopped());
}

// Whatever parts a text comes in: before the first stop text, or all of it.
TEST(TextStream, OfWhateverPartsIsTheWholeTextUpToTheFirstStop) {
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    std::mt19937 random(seed);
    std::string bytes;
    const char* letters[] = {"a", "b", "ab", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    for (uint32_t at = 0; at < random() % 30; ++at) bytes += letters[random() % 6];
    std::vector<std::string> stops;
    for (uint32_t at = 0; at < random() % 3; ++at) {
      std::string stop;
      for (uint32_t letter = 0; letter < 1 + random() % 4; ++letter) stop += letters[random() % 6];
      stops.push_back(stop);
    }
    size_t first = std::string::npos;
    for (const std::string& stop : stops) first = std::min(first, bytes.find(stop));
    TextStream stream(stops);
    std::string text;
    for (size_t at = 0; at < bytes.size() && !stream.stopped();) {
      const size_t count = std::min<size_t>(bytes.size() - at, 1 + random() % 3);
      const std::string part = stream.add(bytes.substr(at, count));
      EXPECT_EQ(valid_utf8_prefix(part), part.size());
      text += part;
      at += count;
    }
    text += stream.rest();
    EXPECT_EQ(stream.stopped(), first != std::string::npos) << "seed " << seed;
    EXPECT_EQ(text, bytes.substr(0, first)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace pimoe
