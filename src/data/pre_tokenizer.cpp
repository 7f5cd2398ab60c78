#include "data/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/json_fields.h"
#include "data/tokenizer_parts.h"

namespace pimoe {
namespace {

/// GPT-2's, which ByteLevel cuts by.
constexpr const char* kByteLevelExpression = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

PreTokenizer::PreTokenizer(const nlohmann::json* json, const std::string& place) {
  if (json != nullptr) read(*json, place);
}

PreTokenizer::Behavior PreTokenizer::read_behavior(const std::string& word, const std::string& place) {
  static const std::vector<std::string> kWords = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  for (size_t i = 0; i < kWords.size(); ++i) {
    if (word == kWords[i]) return static_cast<Behavior>(i);
  }
  throw DataError(concat(place, ".behavior is '", printable(word), "', and must be one of ", join(kWords, ", ")));
}

void PreTokenizer::read(const nlohmann::json& json, const std::string& place) {
  if (is_byte_level_) throw DataError(concat(place, " follows ByteLevel, which must be the last of a Sequence"));
  JsonFields fields(json, place);
  const std::string& type = fields.text("type");
  if (type == "Sequence") {
    fields.each("pretokenizers", [this](const nlohmann::json& part, const std::string& at) { read(part, at); });
  } else if (type == "ByteLevel") {
    Step step;
    step.adds_space = fields.flag("add_prefix_space", true);
    if (fields.flag("use_regex", true)) step.pattern.emplace(TextPattern::expression(kByteLevelExpression, place));
    fields.ignore("trim_offsets");  // offsets are not asked for
    steps_.push_back(std::move(step));
    is_byte_level_ = true;
  } else if (type == "Split") {
    Step step;
    step.pattern.emplace(read_pattern(fields.at("pattern"), place + ".pattern"));
    step.behavior = read_behavior(fields.text("behavior"), place);
    step.inverts = fields.flag("invert", false);
    steps_.push_back(std::move(step));
  } else if (type == "Digits") {
    Step step;
    step.behavior = fields.flag("individual_digits", false) ? Behavior::kIsolated : Behavior::kContiguous;
    step.pattern.emplace(TextPattern::expression("\\p{N}", place));
    steps_.push_back(std::move(step));
  } else {
    throw DataError(
        concat(place, " is of the type '", printable(type), "', which is not implemented; ByteLevel, Split, Digits and Sequence are"));
  }
  fields.finish();
}

/// Gives each match the neighbour that `behavior` says. Removed leaves what is no match.
void PreTokenizer::join_spans(std::vector<TextSpan>& spans, Behavior behavior) {
  std::vector<TextSpan> joined;
  bool after_match = false;
  switch (behavior) {
    case Behavior::kIsolated: return;
    case Behavior::kRemoved: std::erase_if(spans, [](const TextSpan& span) { return span.is_match; }); return;
    case Behavior::kContiguous:
    case Behavior::kMergedWithPrevious:
      for (const TextSpan& span : spans) {
        const bool joins = behavior == Behavior::kContiguous ? span.is_match == after_match : span.is_match && !after_match;
        if (joins && !joined.empty()) {
          joined.back().end = span.end;
        } else {
          joined.push_back(span);
        }
        after_match = span.is_match;
      }
      break;
    case Behavior::kMergedWithNext:
      for (auto span = spans.rbegin(); span != spans.rend(); ++span) {
        if (span->is_match && !after_match && !joined.empty()) {
          joined.back().begin = span->begin;
        } else {
          joined.push_back(*span);
        }
        after_match = span->is_match;
      }
      std::reverse(joined.begin(), joined.end());
      break;
  }
  spans = std::move(joined);
}

void PreTokenizer::cut(std::string_view text, bool starts_document, std::deque<std::string>& made,
                       std::vector<std::string_view>& words) const {
  words.clear();
  if (!text.empty()) words.push_back(text);
  std::vector<std::string_view> whole;
  std::vector<TextSpan> spans;
  for (const Step& step : steps_) {
    whole.swap(words);
    words.clear();
    bool may_have_space = starts_document;
    for (std::string_view word : whole) {
      if (step.adds_space && std::exchange(may_have_space, true) && !word.starts_with(' ')) word = made.emplace_back(concat(' ', word));
      if (!step.pattern) {
        words.push_back(word);
        continue;
      }
      step.pattern->cut(word, spans);
      if (step.inverts) {
        for (TextSpan& span : spans) span.is_match = !span.is_match;
      }
      join_spans(spans, step.behavior);
      for (const TextSpan& span : spans) {
        if (span.end > span.begin) words.push_back(word.substr(span.begin, span.end - span.begin));
      }
    }
  }
}

}  // namespace pimoe
