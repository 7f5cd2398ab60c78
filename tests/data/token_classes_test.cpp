#include "data/token_classes.h"

#include <gtest/gtest.h>

#include <iterator>
#include <random>

#include "base/errors.h"
#include "data/sample_text.h"

namespace pimoe {
namespace {

/// A letter for each byte's class: i k n o w s c of Python, w d p s of prose.
std::string letters(std::string_view text, TextKind kind) {
  std::string found;
  for (const TokenClass byte_class : classify_bytes(text, kind)) found += class_names(kind)[static_cast<size_t>(byte_class)][0];
  return found;
}

std::string python(std::string_view text) { return letters(text, TextKind::kPython); }
std::string prose(std::string_view text) {
  std::string found = letters(text, TextKind::kProse);
  // Words and whitespace begin with the same letter.
  const auto classes = classify_bytes(text, TextKind::kProse);
  for (size_t index = 0; index < found.size(); ++index) {
    if (classes[index] == kSpace) found[index] = '_';
  }
  return found;
}

TEST(PythonClasses, OfALineWithEverything) {
  EXPECT_EQ(python("def f(x1): return x1 + 0.5  # half\n"),  //
            "kkkwioiioowkkkkkkwiiwownnnwwccccccw");
}

TEST(PythonClasses, KeywordsAreWholeWordsAndSoftOnesAreNames) {
  EXPECT_EQ(python("if iffy not_in is"), "kkwiiiiwiiiiiiwkk");
  EXPECT_EQ(python("match case type _ print None"), "iiiiiwiiiiwiiiiwiwiiiiiwkkkk");
}

TEST(PythonClasses, StringsHaveTheirPrefixAndHideWhatIsInThem) {
  EXPECT_EQ(python("x='a#b'+\"if\""), "iosssssossss");
  EXPECT_EQ(python(R"(Rb"\"" rb'\\' f'{x}' u"")"),
            "ssssss"
            "w"
            "ssssss"
            "w"
            "ssssss"
            "w"
            "sss");
  EXPECT_EQ(python("bar'x' ub'x'"),
            "iiisss"
            "w"
            "iisss")
      << "bar and ub are no prefixes";
  EXPECT_EQ(python("b.r"), "ioi");
}

TEST(PythonClasses, TripleQuotesPassLinesAndSingleQuotesEndWithTheirs) {
  EXPECT_EQ(python("'''a\n'b''\n'''x"), "sssssssssssssi");
  EXPECT_EQ(python("\"\"\"d\"\"\"\nif"), "ssssssswkk");
  EXPECT_EQ(python("it's\nif"), "iisswkk");
  EXPECT_EQ(python("'a\\\nb'"), "ssssss") << "a backslash takes the line's end into the string";
  EXPECT_EQ(python("'' if"), "sswkk");
  EXPECT_EQ(python("'''never closed\nif"), std::string(18, 's'));
  EXPECT_EQ(python("'\\"), "ss");
}

TEST(PythonClasses, NumbersAreTakenWhole) {
  for (const char* number : {"0", "1_000", "0xFF", "0b1_0", "0O17", "3.", ".5", "1e9", "1.5E-3", "2j", "1_0.0_1e+1_0J"}) {
    EXPECT_EQ(python(number), std::string(std::string_view(number).size(), 'n')) << number;
  }
  EXPECT_EQ(python("1 .real"), "nwoiiii");
  EXPECT_EQ(python("1else"), "nkkkk") << "an exponent has digits";
  EXPECT_EQ(python("a.b1-1"), "ioiion");
  EXPECT_EQ(python("x[1:2]"), "ionono");
}

TEST(PythonClasses, CommentsEndWithTheirLine) { EXPECT_EQ(python("#if 'x'\nx#"), "cccccccwic"); }

TEST(PythonClasses, EverythingElseIsAnOperator) { EXPECT_EQ(python("@a:=b\\\n->?$`"), "oiooiowooooo"); }

TEST(PythonClasses, NamesMayHaveAnyLetters) { EXPECT_EQ(python("größe=1"), "iiiiiiion"); }

TEST(ProseClasses, WordsDigitsPunctuation) {
  EXPECT_EQ(prose("It's 42 'quoted' days.\n"), "wwww_dd_pwwwwwwp_wwwwp_");
  EXPECT_EQ(prose("1990s, e-mail"), "ddddwp_wpwwww");
}

TEST(ProseClasses, KnowUnicodesQuotesDashesAndSpaces) {
  EXPECT_EQ(prose("“ä”"),
            "ppp"
            "ww"
            "ppp");
  EXPECT_EQ(prose("a — b…"),
            "w_ppp_w"
            "ppp");
  EXPECT_EQ(prose("«\u00A0x»"),
            "pp__w"
            "pp");
  EXPECT_EQ(prose("日。"), "wwwppp");
}

TEST(TokenClasses, EveryByteStringGetsAClassForEachByte) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  static const char kAlphabet[] = "'\"\\\n #ab01.eErRfx_(\xC2\xA0\xE2\x80\x9C\xF0";
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 40, ' ');
    for (char& byte : text) byte = kAlphabet[random() % (std::size(kAlphabet) - 1)];
    for (const TextKind kind : {TextKind::kPython, TextKind::kProse}) {
      const auto classes = classify_bytes(text, kind);
      ASSERT_EQ(classes.size(), text.size()) << text;
      for (const TokenClass found : classes) {
        ASSERT_GE(found, 0);
        ASSERT_LT(static_cast<size_t>(found), class_names(kind).size());
      }
    }
  }
}

class TokensOfAModel : public testing::Test {
 protected:
  static const Tokenizer& tokenizer() {
    static const Tokenizer model(train_tokenizer(sample_lines(2000), 600), "small");
    return model;
  }
  /// The id whose piece is `piece`, U+2581 for a space.
  static int32_t id(const std::string& piece) {
    for (int32_t candidate = 0; candidate < tokenizer().vocabulary(); ++candidate) {
      if (tokenizer().piece(candidate) == piece) return candidate;
    }
    throw DataError("no piece " + piece);
  }
};

TEST_F(TokensOfAModel, TextsOneAfterTheOtherAreWhatDecodeGives) {
  for (const std::string& line : sample_lines(50)) {
    const auto ids = tokenizer().encode(line);
    std::string text;
    for (const int32_t each : ids) text += tokenizer().text(each);
    EXPECT_EQ(text, tokenizer().decode(ids));
  }
  EXPECT_EQ(tokenizer().text(tokenizer().end_of_document()), "");
  EXPECT_THROW(tokenizer().text(600), DataError);
}

TEST_F(TokensOfAModel, ATokenHasTheClassOfMostOfItsBytesAndWhitespaceGivesWay) {
  // " t" is half whitespace; the newline's piece is all of it.
  const std::vector<int32_t> ids = {id("▁t"), id("<0x3D>"), id("▁"), id("1"), id("<0x0A>")};
  ASSERT_EQ(tokenizer().decode(ids), " t= 1\n");
  EXPECT_EQ(classify_tokens(ids, tokenizer(), TextKind::kPython),
            (std::vector<TokenClass>{kIdentifier, kOperator, kWhitespace, kNumber, kWhitespace}));
  EXPECT_EQ(classify_tokens(ids, tokenizer(), TextKind::kProse), (std::vector<TokenClass>{kWord, kPunctuation, kSpace, kDigit, kSpace}));
}

TEST_F(TokensOfAModel, AnOpenStringReachesItsDocumentsEndAndNoFurther) {
  std::vector<int32_t> ids = {id("a"), id("<0x22>"), id("<0x22>"), id("<0x22>"), id("a"), tokenizer().end_of_document(), id("a")};
  EXPECT_EQ(classify_tokens(ids, tokenizer(), TextKind::kPython),
            (std::vector<TokenClass>{kIdentifier, kString, kString, kString, kString, kNoClass, kIdentifier}));
  EXPECT_TRUE(classify_tokens({}, tokenizer(), TextKind::kPython).empty());
}

TEST_F(TokensOfAModel, WordsCutIntoPiecesAreReadWhole) {
  // "if" and "iff" by bytes: the same two pieces are a keyword or part of a name by what follows.
  const auto classes = [&](const std::string& text) {
    std::vector<int32_t> ids;
    for (const char byte : text) {
      static const char kHex[] = "0123456789ABCDEF";
      const auto value = static_cast<unsigned char>(byte);
      ids.push_back(id(std::string("<0x") + kHex[value >> 4] + kHex[value & 15] + ">"));
    }
    return classify_tokens(ids, tokenizer(), TextKind::kPython);
  };
  EXPECT_EQ(classes("if"), (std::vector<TokenClass>{kKeyword, kKeyword}));
  EXPECT_EQ(classes("iff"), (std::vector<TokenClass>{kIdentifier, kIdentifier, kIdentifier}));
}

}  // namespace
}  // namespace pimoe
