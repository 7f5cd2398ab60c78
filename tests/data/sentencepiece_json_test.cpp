#include "data/sentencepiece_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "base/errors.h"
#include "data/sample_text.h"
#include "data/tokenizer.h"

namespace pimoe {
namespace {

const std::string& small_model() {
  static const std::string model = train_tokenizer(sample_lines(2000), 700);
  return model;
}

/// What tokenizers stumble over: runs of spaces and letters, ends of lines, digits, accents, what no piece has, names of bytes.
std::string random_text(std::mt19937& random) {
  static const std::string kParts[] = {
      " ",    "  ", "       ", "\n", "\r\n", "\t",     "1234", "é",      "e\xCC\x81",  "日本語",      "👩‍👩‍👧",
      "\x7f", "a",  "aaaaaaa", "ee", "the",  " token", "_",    "<0x0A>", "naïvexpert", "\xEF\xBB\xBF"};
  std::string text;
  for (size_t count = random() % 30; count > 0; --count) {
    text += random() % 4 == 0 ? sample_lines(1, static_cast<uint32_t>(random()))[0] : kParts[random() % std::size(kParts)];
  }
  return text;
}

TEST(SentencepieceJson, GivesTheIdsOfTheModel) {
  if (!PIMOE_UNICODE) GTEST_SKIP() << "built without PCRE2 or utf8proc";
  const Tokenizer model(small_model(), "tokenizer.model");
  const Tokenizer json(tokenizer_json_of(small_model()).value(), "tokenizer.json");
  ASSERT_EQ(json.vocabulary(), model.vocabulary());
  EXPECT_EQ(json.end_of_document(), model.end_of_document());
  for (int32_t id = 0; id < model.vocabulary(); ++id) EXPECT_EQ(json.piece(id), model.piece(id)) << id;
  std::mt19937 random(7);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = random_text(random);
    ASSERT_EQ(json.encode(text), model.encode(text)) << "text " << i << ": " << text;
    ASSERT_EQ(json.decode(model.encode(text)), text) << "text " << i;
  }
}

TEST(SentencepieceJson, NoOtherModelIsTakenForOneOfOurs) {
  const auto with = [](const std::string& setting) {
    return tokenizer_json_of(small_model() + setting);
  };  // protobuf: the last value counts
  EXPECT_TRUE(with("").has_value());
  EXPECT_FALSE(with(std::string("\x1a\x02\x18\x01", 4)).has_value()) << "normalizer_spec {add_dummy_prefix: true}";
  EXPECT_FALSE(with(std::string("\x1a\x02\x20\x01", 4)).has_value()) << "normalizer_spec {remove_extra_whitespaces: true}";
  // One more piece, of a score that no merge has: {piece: "QZ", score: -0.5}.
  EXPECT_FALSE(with(std::string("\x0a\x09\x0a\x02QZ\x15\x00\x00\x00\xbf", 11)).has_value());
}

TEST(SentencepieceJson, WhatIsNoModelIsRefused) {
  EXPECT_THROW(tokenizer_json_of(""), DataError);
  EXPECT_THROW(tokenizer_json_of("{}"), DataError);
}

}  // namespace
}  // namespace pimoe
