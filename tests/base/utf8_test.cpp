#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace pimoe {
namespace {

TEST(Utf8, AcceptsTheFirstAndLastCharacterOfEachLength) {
  for (const char* text : {"\x01", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBF",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(valid_utf8_prefix(text), std::string(text).size()) << text;
  }
}

TEST(Utf8, RefusesOverlongSurrogateAndTooLargeForms) {
  for (const char* text : {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF",
                           "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC2", "\xC2\x41", "\xE2\x96", "\xF0\x9F\x91"}) {
    EXPECT_EQ(valid_utf8_prefix(text), 0u) << text;
  }
}

TEST(Utf8, FindsTheFirstBadByteWhereverItStands) {
  for (size_t before = 0; before < 20; ++before) {
    const std::string good(before, 'a');
    EXPECT_EQ(valid_utf8_prefix(good + "é\xFFzzzzzzzzzzzz"), before + 2);
    EXPECT_EQ(valid_utf8_prefix(good + "\xE2\x96"), before);
  }
}

TEST(Utf8, TextHasNoNul) {
  EXPECT_TRUE(is_text("a\té\n"));
  EXPECT_TRUE(is_text(""));
  EXPECT_FALSE(is_text(std::string_view("a\0b", 3)));
  EXPECT_FALSE(is_text("a\xFF"));
  EXPECT_EQ(text_prefix(std::string_view("ab\0\xFF", 4)), 2u);
  EXPECT_EQ(text_prefix(std::string_view("a\xFF\0", 3)), 1u);
}

TEST(Utf8, BoundaryNeverCutsACharacter) {
  const std::string text = "aé日👩";  // 1 + 2 + 3 + 4 bytes
  const size_t expected[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10};
  for (size_t limit = 1; limit < 12; ++limit) EXPECT_EQ(character_boundary(text, limit), expected[limit]) << limit;
}

TEST(Printable, WritesOutWhatCouldDriveATerminal) {
  EXPECT_EQ(printable("ordinary, \xc3\xa4 too"), "ordinary, \xc3\xa4 too");
  EXPECT_EQ(printable(std::string_view("a\x1b[2J\0b\x7f", 8)), "a\\x1b[2J\\x00b\\x7f");
  EXPECT_EQ(printable("two\nlines\r"), "two\\x0alines\\x0d");
  EXPECT_EQ(printable("two\nlines\tand a tab\r", /*keep_lines=*/true), "two\nlines\tand a tab\\x0d");
  EXPECT_EQ(printable("\xc2\x9b"
                      "2J, \xc2\xa0"),
            "\\xc2\\x9b"
            "2J, \xc2\xa0")
      << "U+009B is ESC [ in one";
  EXPECT_EQ(printable("\x9b"
                      "2J \xff \xc3"),
            "\\x9b"
            "2J \\xff \\xc3")
      << "no UTF-8";
}

}  // namespace
}  // namespace pimoe
