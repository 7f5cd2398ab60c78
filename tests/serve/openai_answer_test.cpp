#include "serve/openai_answer.h"

#include "serve/served.h"

namespace pimoe {
namespace {

class OpenAiAnswer : public testing::Test {
 protected:
  /// The id of the byte's own token.
  static int64_t byte_token(unsigned char byte) {
    for (int32_t id = 0; id < small_tokenizer().vocabulary(); ++id) {
      if (small_tokenizer().text(id) == std::string(1, static_cast<char>(byte))) return id;
    }
    return -1;
  }
  nlohmann::json logprobs(const std::vector<GeneratedToken>& tokens) const {
    OpenAiAnswerFacts facts;
    facts.has_logprobs = true;
    OpenAiChoice choice;
    choice.tokens = tokens;
    choice.ending = GenerationEnding::kLength;
    return nlohmann::json::parse(whole_answer(facts, {choice}, {}, texts_)).at("choices").at(0).at("logprobs");
  }
  static GeneratedToken token(int64_t id, double logprob, std::vector<std::pair<int64_t, double>> top) {
    GeneratedToken made;
    made.token = id;
    made.logprob = logprob;
    made.top = std::move(top);
    return made;
  }

  CompletionTexts texts_{small_tokenizer(), nullptr, 300, 64};
};

TEST_F(OpenAiAnswer, WritesNumbersThatReadBackAsTheSameBits) {
  for (const double value : {-0.1, -1.0 / 3, -1e-17, -123.45678901234567, -0.0}) {
    const auto found = logprobs({token(5, value, {{5, value}})});
    EXPECT_EQ(found.at("token_logprobs")[0].get<double>(), value);
    EXPECT_EQ(found.at("top_logprobs")[0].begin()->get<double>(), value);
  }
  EXPECT_EQ(logprobs({token(5, -INFINITY, {{5, -INFINITY}})}).at("token_logprobs")[0], -9999.0) << "JSON has no infinity";
}

TEST_F(OpenAiAnswer, KeepsTheLargestOfTokensWithOneName) {
  // Ids beyond the tokenizer's have names of their own; U+2581's bytes decode to what a space does in no tokenizer of ours, so take one id twice.
  const auto found = logprobs({token(7, -3.0, {{5, -1.0}, {5, -2.0}})});
  EXPECT_EQ(found.at("top_logprobs")[0].size(), 2u) << "5 once, and the token itself";
  double largest = -1e9;
  for (const auto& each : found.at("top_logprobs")[0]) largest = std::max(largest, each.get<double>());
  EXPECT_EQ(largest, -1.0);
}

TEST_F(OpenAiAnswer, NamesPartsOfCharactersByTheirBytesAndCountsCharacters) {
  const std::string euro = "\xe2\x82\xac";
  std::vector<GeneratedToken> tokens;
  for (const char byte : euro) tokens.push_back(token(byte_token(static_cast<unsigned char>(byte)), -1.0, {}));
  tokens.push_back(token(299, -1.0, {}));
  const auto found = logprobs(tokens);
  EXPECT_EQ(found.at("tokens"), (nlohmann::json{"bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "<299>"}));
  EXPECT_EQ(found.at("text_offset"), (nlohmann::json{0, 1, 1, 1}));
  EXPECT_EQ(texts_.name_of(small_tokenizer().end_of_document()), "</s>");
}

}  // namespace
}  // namespace pimoe
