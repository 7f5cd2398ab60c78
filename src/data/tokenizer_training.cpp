#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/errors.h"
#include "base/text.h"
#include "data/tokenizer.h"

namespace pimoe {
namespace {

constexpr size_t kSentenceBytesLimit = 16 << 10;

/// Hands SentencePiece the sentences that it can learn from, without a copy of them all.
class SentenceList : public sentencepiece::SentenceIterator {
 public:
  explicit SentenceList(const std::vector<std::string>& sentences) : sentences_(sentences) { skip_unusable(); }
  bool done() const override { return at_ == sentences_.size(); }
  void Next() override {
    ++at_;
    skip_unusable();
  }
  const std::string& value() const override { return sentences_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  static bool is_usable(const std::string& sentence) {
    return !sentence.empty() && sentence.size() <= kSentenceBytesLimit && sentence.find('\0') == std::string::npos;
  }
  void skip_unusable() {
    while (!done() && !is_usable(sentences_[at_])) ++at_;
  }

  const std::vector<std::string>& sentences_;
  size_t at_ = 0;
};

/// SentencePiece names the smallest vocabulary only in passing: "... smaller than required_chars. 300 vs 344. ...".
std::string in_our_words(const std::string& message) {
  static constexpr std::string_view kVersus = " vs ";
  const size_t versus = message.find("required_chars.") == std::string::npos ? std::string::npos : message.rfind(kVersus);
  if (versus == std::string::npos) return message;
  const size_t number = versus + kVersus.size();
  return concat("its characters and the 256 bytes alone need ", message.substr(number, message.find('.', number) - number),
                "; ask for more");
}

}  // namespace

std::string train_tokenizer(const std::vector<std::string>& sentences, int64_t vocabulary) {
  SentenceList list(sentences);
  if (list.done()) throw DataError("there is no text to train a tokenizer on");
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocabulary)},
      // A text too small for the vocabulary then gives what it can, and the message below can say how much that is.
      {"hard_vocab_limit", "false"},
      {"byte_fallback", "true"},
      {"character_coverage", "0.9995"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      {"user_defined_symbols", "\n"},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      {"max_sentence_length", std::to_string(kSentenceBytesLimit)},
      {"minloglevel", "2"},  // errors alone: the trainer is otherwise talkative on stderr
  };
  std::string model;
  const auto trained = sentencepiece::SentencePieceTrainer::Train(settings, &list, &model);
  if (!trained.ok()) {
    throw DataError(concat("a tokenizer of ", vocabulary, " pieces cannot be trained on this text: ", in_our_words(trained.message())));
  }
  const int64_t reached = Tokenizer(model, "just trained").vocabulary();
  if (reached < vocabulary) {
    throw DataError(concat("the text gives at most ", reached, " pieces; vocabulary (", vocabulary,
                           ") must not be above that: ask for fewer or give more text"));
  }
  return model;
}

}  // namespace pimoe
