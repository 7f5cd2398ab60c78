#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <random>

#include "base/errors.h"
#include "base/file_io.h"
#include "base/utf8.h"
#include "data/sample_text.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

/// A small model, trained once for all tests: 600 pieces.
const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer(train_tokenizer(sample_lines(2000), 600), "small");
  return tokenizer;
}

void append_character(std::string& text, uint32_t code) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xC0 | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    text += static_cast<char>(0xE0 | (code >> 12));
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xF0 | (code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string random_text(std::mt19937& random) {
  // Whitespace, what looks like control pieces, SentencePiece's own marks, combining and joined characters, a byte order mark.
  static const std::string kSpaces[] = {" ", "  ", "        ", "\n", "\r\n", "\t", "\v", "\x7f"};
  static const std::string kWords[] = {"</s>", "<s>", "<unk>", "<0x0A>", "▁", "▁▁the", "the", "1234", "\xE2\x81\x87"};
  static const std::string kOther[] = {"\xEF\xBF\xBD", "\xEF\xBB\xBF", "é", "e\xCC\x81", "日本語", "👩‍👩‍👧"};
  std::string text;
  const size_t pieces = random() % 60;
  for (size_t i = 0; i < pieces; ++i) {
    switch (random() % 6) {
      case 0: text += kSpaces[random() % std::size(kSpaces)]; break;
      case 1: text += kWords[random() % std::size(kWords)]; break;
      case 2: text += kOther[random() % std::size(kOther)]; break;
      case 3: append_character(text, random() % 0x80); break;  // control characters and NUL too
      case 4: text += sample_lines(1, random())[0]; break;
      default: {
        uint32_t code = random() % 0x110000;
        if (code >= 0xD800 && code < 0xE000) code -= 0x800;
        append_character(text, code);
      }
    }
  }
  return text;
}

TEST(Tokenizer, EncodeAndDecodeRoundTripAnyUtf8) {
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int round = 0; round < 3000; ++round) {
    const std::string text = random_text(random);
    ASSERT_EQ(valid_utf8_prefix(text), text.size());
    ASSERT_EQ(small_tokenizer().decode(small_tokenizer().encode(text)), text) << "seed " << seed << " round " << round;
  }
}

TEST(Tokenizer, EncodeAndDecodeRoundTripAnyBytes) {
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int round = 0; round < 1000; ++round) {
    std::string bytes(random() % 50, ' ');
    for (char& byte : bytes) byte = static_cast<char>(random() % 3 == 0 ? random() % 256 : 0xE0 + random() % 3);
    ASSERT_EQ(small_tokenizer().decode(small_tokenizer().encode(bytes)), bytes) << "seed " << seed << " round " << round;
  }
}

TEST(Tokenizer, ANewlineIsAlwaysAPieceOfItsOwn) {
  const Tokenizer& tokenizer = small_tokenizer();
  const auto newline = tokenizer.encode("\n");
  ASSERT_EQ(newline.size(), 1u);
  EXPECT_EQ(tokenizer.piece(newline[0]), "\n");
  EXPECT_EQ(tokenizer.encode("\n\n\n"), (std::vector<int32_t>(3, newline[0])));
  for (int32_t id = 0; id < tokenizer.vocabulary(); ++id) {
    if (id != newline[0]) {
      EXPECT_EQ(tokenizer.piece(id).find('\n'), std::string::npos) << id;
    }
  }
}

TEST(Tokenizer, DigitsAreSplitAndIndentationIsOnePiece) {
  const Tokenizer& tokenizer = small_tokenizer();
  for (int32_t id = 0; id < tokenizer.vocabulary(); ++id) {
    const std::string& piece = tokenizer.piece(id);
    if (piece.starts_with("<0x")) continue;
    EXPECT_LE(std::count_if(piece.begin(), piece.end(), [](char c) { return c >= '0' && c <= '9'; }), 1) << piece;
  }
  EXPECT_EQ(tokenizer.encode("    ").size(), 1u);
}

TEST(Tokenizer, EndOfDocumentIsNeverInAText) {
  const Tokenizer& tokenizer = small_tokenizer();
  const auto ids = tokenizer.encode("a</s>b");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.end_of_document()), 0);
  EXPECT_EQ(tokenizer.piece(tokenizer.end_of_document()), "</s>");
  EXPECT_EQ(tokenizer.decode({tokenizer.end_of_document()}), "");
}

// Texts of several parts, cut after newlines or before spaces: the tokens are those of lines or words encoded alone.
TEST(Tokenizer, PartsOfALongTextAreEncodedAsTheWhole) {
  const Tokenizer& tokenizer = small_tokenizer();
  for (const char separator : {'\n', ' '}) {
    std::string text;
    std::vector<int32_t> expected;
    for (const std::string& line : sample_lines(6000)) {
      const std::string unit = separator == '\n' ? line + "\n" : " " + line.substr(line.find_first_not_of(' '));
      text += unit;
      const auto ids = tokenizer.encode(unit);
      expected.insert(expected.end(), ids.begin(), ids.end());
    }
    ASSERT_GT(text.size(), 3u << 16);
    EXPECT_EQ(tokenizer.encode(text), expected) << "separator " << static_cast<int>(separator);
  }
}

TEST(Tokenizer, AVeryLongLineComesBackWhole) {
  std::string text;
  while (text.size() < 300000) text += "日本語é👩";
  EXPECT_EQ(small_tokenizer().decode(small_tokenizer().encode(text)), text);
}

TEST(Tokenizer, CutsAfterANewlineElseBeforeAWordElseBetweenCharacters) {
  EXPECT_EQ(Tokenizer::cut_point("ab\ncd\nef", 8), 8u);
  EXPECT_EQ(Tokenizer::cut_point("ab\ncd\nef", 7), 6u);
  EXPECT_EQ(Tokenizer::cut_point("ab\ncd\nef", 5), 3u);
  EXPECT_EQ(Tokenizer::cut_point("ab  cd ef", 8), 6u);
  EXPECT_EQ(Tokenizer::cut_point("ab  cd ef", 6), 2u);
  EXPECT_EQ(Tokenizer::cut_point("    abcd", 6), 6u);
  EXPECT_EQ(Tokenizer::cut_point("日本", 5), 3u);
  EXPECT_EQ(Tokenizer::cut_point("\x80\x80\x80\x80\x80\x80", 5), 5u);
}

TEST(Tokenizer, ATextThatGoesOnIsEncodedLikeItsWhole) {
  const Tokenizer& tokenizer = small_tokenizer();
  auto ids = tokenizer.encode("def f():\n");
  const auto rest = tokenizer.encode("    return 1\n", /*starts_document=*/false);
  ids.insert(ids.end(), rest.begin(), rest.end());
  EXPECT_EQ(ids, tokenizer.encode("def f():\n    return 1\n"));
}

/// The same model with `normalizer_spec {add_dummy_prefix: true}` merged in, as Mixtral's and Llama's have it.
Tokenizer tokenizer_with_space_in_front() {
  return Tokenizer(train_tokenizer(sample_lines(2000), 600) + std::string("\x1a\x02\x18\x01", 4), "with a space in front");
}

TEST(Tokenizer, AModelThatPutsASpaceInFrontDoesSoOncePerDocument) {
  const Tokenizer tokenizer = tokenizer_with_space_in_front();
  const Tokenizer& plain = small_tokenizer();
  EXPECT_EQ(tokenizer.encode("return"), plain.encode(" return"));
  EXPECT_EQ(tokenizer.encode("return", /*starts_document=*/false), plain.encode("return"));
  EXPECT_TRUE(tokenizer.encode("").empty());
  std::string text;
  for (const std::string& line : sample_lines(4000)) text += line + "\n";
  ASSERT_GT(text.size(), 2u << 16);
  EXPECT_EQ(tokenizer.encode(text), plain.encode(" " + text));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("  two")), "  two");
}

TEST(Tokenizer, AnIdOutsideTheVocabularyIsADataError) {
  EXPECT_EQ(small_tokenizer().vocabulary(), 600);
  EXPECT_NO_THROW(small_tokenizer().decode({0, 599}));
  EXPECT_THROW(small_tokenizer().decode({600}), DataError);
  EXPECT_THROW(small_tokenizer().decode({-1}), DataError);
  EXPECT_THROW(small_tokenizer().piece(600), DataError);
}

TEST(Tokenizer, AFileThatIsNoModelIsADataErrorWithItsName) {
  const TemporaryFolder folder;
  EXPECT_THROW(Tokenizer(folder / "missing.model"), DataError);
  EXPECT_THROW(Tokenizer(folder.path()), DataError);
  EXPECT_THROW(Tokenizer(folder.write("empty.model", "")), DataError);
  try {
    const Tokenizer tokenizer(folder.write("text.model", "this is no model"));
    FAIL() << "a text was taken for a model";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("text.model"), std::string::npos) << error.what();
  }
  try {
    const Tokenizer tokenizer(folder.write("pointer.model", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"));
    FAIL() << "a pointer was taken for a model";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("pointer.model: is a pointer of Git LFS"), std::string::npos) << error.what();
  }
}

// A model cut between two of its pieces still parses: it may be read, as a smaller vocabulary, but not crash.
TEST(Tokenizer, ADamagedModelIsRefusedOrReadWithoutACrash) {
  const std::string model = train_tokenizer(sample_lines(300), 400);
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  int refused = 0;
  for (int round = 0; round < 600; ++round) {
    std::string damaged = model;
    if (round % 2 == 0) {
      damaged.resize(random() % model.size());
    } else {
      damaged[random() % damaged.size()] ^= static_cast<char>(1 + random() % 255);
    }
    try {
      const Tokenizer tokenizer(damaged, "damaged");
      tokenizer.decode(tokenizer.encode("return 12 naïve\n"));
    } catch (const DataError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 200) << "seed " << seed;
}

TEST(TokenizerTraining, TheSameSentencesGiveTheSameBytes) {
  EXPECT_EQ(train_tokenizer(sample_lines(300), 400), train_tokenizer(sample_lines(300), 400));
}

TEST(TokenizerTraining, SaysHowManyPiecesTheTextCanGive) {
  const std::vector<std::string> sentences(20, "the cat sat on the mat");
  std::string message;
  try {
    train_tokenizer(sentences, 5000);
  } catch (const DataError& error) {
    message = error.what();
  }
  const std::string before = "the text gives at most ";
  ASSERT_EQ(message.find(before), 0u) << message;
  const int64_t possible = std::stoll(message.substr(before.size()));
  EXPECT_GT(possible, 259);
  EXPECT_EQ(Tokenizer(train_tokenizer(sentences, possible), "possible").vocabulary(), possible);
}

TEST(TokenizerTraining, SaysHowManyPiecesTheCharactersNeed) {
  const std::vector<std::string> sentences(20, "abc def");  // 6 letters and the space, 256 bytes, newline, end of document, unknown
  try {
    train_tokenizer(sentences, 262);
    FAIL() << "262 pieces for 266";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("need 266; ask for more"), std::string::npos) << error.what();
  }
}

TEST(TokenizerTraining, AVocabularyTooSmallForTheBytesIsADataError) {
  EXPECT_THROW(train_tokenizer(sample_lines(100), 200), DataError);
  EXPECT_THROW(train_tokenizer(sample_lines(100), 0), DataError);
  EXPECT_THROW(train_tokenizer({}, 400), DataError);
  EXPECT_THROW(train_tokenizer({"", std::string("a\0b", 3)}, 400), DataError);
}

}  // namespace
}  // namespace pimoe
