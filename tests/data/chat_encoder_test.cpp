#include "data/chat_encoder.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/errors.h"
#include "data/byte_level_tokenizer.h"

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

/// Bytes, `<|im_start|>` 257 and `<|im_end|>` 258.
Tokenizer byte_tokenizer(const Json& normalizer = nullptr) {
  Json json = byte_level();
  json["normalizer"] = normalizer;
  for (const auto& [content, id] : std::vector<std::pair<const char*, int>>{{"<|im_start|>", 257}, {"<|im_end|>", 258}}) {
    json["added_tokens"].push_back({{"id", id}, {"content", content}, {"special", true}, {"normalized", false}});
  }
  return Tokenizer(json.dump(), "test.json");
}

ChatTemplate chatml() {
  return ChatTemplate(
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
      "chatml", Json::object());
}

/// The learned tokens as text, special ones by their words, `|` between stretches.
std::string learned(const EncodedChat& chat, const Tokenizer& tokenizer) {
  std::string text;
  for (size_t i = 0; i < chat.ids.size(); ++i) {
    if (chat.learned[i] == 0) continue;
    if (i > 0 && chat.learned[i - 1] == 0 && !text.empty()) text += "|";
    text += tokenizer.text(chat.ids[i]).empty() ? tokenizer.piece(chat.ids[i]) : tokenizer.text(chat.ids[i]);
  }
  return text;
}

std::string refusal(const std::string& line, const ChatTemplate* chat) {
  const Tokenizer tokenizer = byte_tokenizer();
  try {
    static_cast<void>(ChatEncoder(tokenizer, chat).encode(read_conversation(line)));
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing";
}

TEST(ChatEncoder, LearnsAnswersWithTheirEndOfTurnAndNothingElse) {
  const Tokenizer tokenizer = byte_tokenizer();
  const ChatTemplate chat = chatml();
  const ChatEncoder encoder(tokenizer, &chat);
  const EncodedChat encoded = encoder.encode(read_conversation(
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b é"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d\n"}]})"));
  EXPECT_EQ(learned(encoded, tokenizer), "b é<|im_end|>|d\n<|im_end|>");
  EXPECT_EQ(encoded.ids.front(), 257) << "a special token is its id, and nothing is put in front";
  EXPECT_EQ(encoded.ids.size(), encoded.learned.size());
  EXPECT_EQ(encoder.end_of_turn(), 258);
  const std::vector<int32_t> question = encoder.encode_question(user_says("a"));
  EXPECT_EQ(tokenizer.decode(question), "user\na\nassistant\n");
}

TEST(ChatEncoder, APromptIsAUsersAndTheAnswerTheAssistants) {
  const Tokenizer tokenizer = byte_tokenizer();
  const ChatTemplate chat = chatml();
  for (const char* key : {"answer", "completion", "response"}) {
    const Json line = {{"prompt", "1+1?"}, {key, "2"}, {"id", 7}};
    const EncodedChat encoded = ChatEncoder(tokenizer, &chat).encode(read_conversation(line.dump()));
    EXPECT_EQ(tokenizer.decode(encoded.ids), "user\n1+1?\nassistant\n2\n");
    EXPECT_EQ(learned(encoded, tokenizer), "2<|im_end|>");
  }
  const EncodedChat listed =
      ChatEncoder(tokenizer, &chat)
          .encode(read_conversation(
              R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": "d"}]})"));
  EXPECT_EQ(learned(listed, tokenizer), "d<|im_end|>") << "what the prompt's assistant says is read, not learned";
}

TEST(ChatEncoder, WithoutATemplateTheAnswerStandsBehindThePrompt) {
  const Tokenizer tokenizer = byte_tokenizer();
  const EncodedChat encoded = ChatEncoder(tokenizer, nullptr).encode(read_conversation(R"({"prompt": "1+1=", "completion": "2"})"));
  EXPECT_EQ(tokenizer.decode(encoded.ids), "1+1=2");
  EXPECT_EQ(encoded.learned, (std::vector<uint8_t>{0, 0, 0, 0, 1, 1})) << "the document's end is learned too";
  EXPECT_EQ(encoded.ids.back(), tokenizer.end_of_document());
}

TEST(ChatEncoder, ATokenThatTouchesAnAnswerIsLearned) {
  // "=2" is one token, half of it the answer's: transformers counts it.
  Json json = byte_level({{"=", "2"}});
  json["pre_tokenizer"]["use_regex"] = false;
  const Tokenizer tokenizer(json.dump(), "test.json");
  const EncodedChat encoded = ChatEncoder(tokenizer, nullptr).encode(read_conversation(R"({"prompt": "1=", "completion": "2"})"));
  EXPECT_EQ(encoded.learned, (std::vector<uint8_t>{0, 1, 1}));
}

TEST(ChatEncoder, ANormalizerThatChangesTheTextLeavesTheMarksRight) {
  const Tokenizer tokenizer = byte_tokenizer({{"type", "NFC"}});
  const ChatTemplate chat = chatml();
  const EncodedChat encoded =
      ChatEncoder(tokenizer, &chat)
          .encode(read_conversation("{\"prompt\": \"e\\u0301\", \"answer\": \"o\\u0308!\"}"));  // two characters that NFC makes one each
  EXPECT_EQ(learned(encoded, tokenizer), "ö!<|im_end|>");
}

TEST(ChatEncoder, NamesWhatIsWrongWithALine) {
  const ChatTemplate chat = chatml();
  const ChatTemplate deaf("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", "deaf",
                          Json::object());
  const std::pair<const char*, const char*> cases[] = {
      {"{", "the line is no JSON"},
      {"[1]", "the line is a JSON array"},
      {R"({"text": "x"})", "the line has text, and must be {\"messages\""},
      {R"({"prompt": "x"})", "the line has a prompt, and no answer"},
      {R"({"prompt": "x", "answer": "y", "completion": "z"})", "answer and completion"},
      {R"({"prompt": "x", "answer": 3})", "prompt is a JSON string and answer a JSON number"},
      {R"({"messages": []})", "messages must be a list of messages, and not empty"},
      {R"({"messages": [{"from": "human", "value": "x"}]})", "must be renamed to role and content"},
      {R"({"messages": [{"role": "user"}]})", "messages[0] (user) has no content"},
      {R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]})", "a content that is a JSON array"},
      {R"({"messages": [{"role": "user", "content": "x"}]})", "no message is the assistant's"},
      {R"({"prompt": "x", "answer": " \n"})", "message 2, an answer, is empty"},
  };
  for (const auto& [line, part] : cases)
    EXPECT_NE(refusal(line, &chat).find(part), std::string::npos) << line << ": " << refusal(line, &chat);
  EXPECT_NE(
      refusal(
          R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]})",
          &deaf)
          .find("passes over message 1, of the role 'system'"),
      std::string::npos);
  EXPECT_NE(
      refusal(
          R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}]})",
          nullptr)
          .find("without a chat template"),
      std::string::npos);
}

TEST(ChatEncoder, ControlPiecesOfASentencePieceModelAreFoundInTemplates) {
  const std::string model = train_tokenizer({"the cat sat on the mat", "a b c d e f g h i j"}, 290);
  const Tokenizer tokenizer(model, "test.model");
  const std::vector<int32_t> ids = tokenizer.encode_with_special("a</s>b</s>");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.end_of_document()), 2);
  EXPECT_EQ(tokenizer.decode(ids), "ab");
  const std::vector<int32_t> plain = tokenizer.encode("a</s>");
  EXPECT_EQ(std::count(plain.begin(), plain.end(), tokenizer.end_of_document()), 0) << "in a text they are text";
}

}  // namespace
}  // namespace pimoe
