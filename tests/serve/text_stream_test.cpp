#include "serve/text_stream.h"
#include "base/utf8.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <iterator>
#include <random>

namespace pimoe {
namespace {

TEST(TextStream, HoldsBackACharacterUntilItIsWhole) {
  TextStream stream({});
  EXPECT_EQ(stream.add("a\xE2"), "a");
  EXPECT_EQ(stream.add("\x82"), "");
  EXPECT_EQ(stream.add("\xAC!"), "\xE2\x82\xAC!");
  EXPECT_EQ(stream.add("\xF0\x9F"), "");
  EXPECT_EQ(stream.rest(), "\xEF\xBF\xBD");
}

TEST(TextStream, PutsAMarkForBytesThatAreNoCharacter) {
  TextStream stream({});
  EXPECT_EQ(stream.add("\xE2(\xFFx"), "\xEF\xBF\xBD(\xEF\xBF\xBDx");
}

TEST(WellFormed, ReplacesWhatIsNoText) {
  EXPECT_EQ(well_formed("a\xff"
                        "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(well_formed("\xe2\x82"), "\xEF\xBF\xBD");
  EXPECT_EQ(well_formed("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
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

// `pimoe generate --json` leaves bytes that are no UTF-8 to nlohmann-json: the same texts are shown alike.
TEST(TextStream, MarksWhatIsNoTextAsGenerateDoesInWhateverPartsItComes) {
  for (uint32_t seed = 0; seed < 5000; ++seed) {
    std::mt19937 random(seed);
    std::string bytes;
    const char* letters[] = {"a",    "\xC3\xA9",     "\xE2\x82", "\xE2", "\xF0\x9F\x98", "\xF0\x9F\x98\x80", "\x80", "\xBF",
                             "\xC0", "\xED\xA0\x80", "\xF4\x90", "\xE0", "\xFF"};
    for (uint32_t left = random() % 12; left > 0; --left) bytes += letters[random() % std::size(letters)];
    const std::string shown = nlohmann::json(bytes).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    const auto generated = nlohmann::json::parse(shown).get<std::string>();
    EXPECT_EQ(well_formed(bytes), generated) << "seed " << seed;
    TextStream stream({});
    std::string text;
    for (size_t at = 0, count = 0; at < bytes.size(); at += count) {
      count = 1 + random() % 3;
      text += stream.add(bytes.substr(at, count));
    }
    EXPECT_EQ(text + stream.rest(), generated) << "seed " << seed;
  }
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
