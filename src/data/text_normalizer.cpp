#include "data/text_normalizer.h"

#include <utility>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/json_fields.h"

namespace pimoe {

TextPattern read_pattern(const nlohmann::json& json, const std::string& place) {
  constexpr size_t kMostBytes = 16 << 10;
  JsonFields fields(json, place);
  if (fields.find("Regex") != nullptr) {
    const std::string& expression = fields.short_text("Regex", kMostBytes);
    fields.finish();
    return TextPattern::expression(expression, place + ".Regex");
  }
  const std::string& literal = fields.short_text("String", kMostBytes);
  fields.finish();
  if (literal.empty()) throw DataError(concat(place, ".String must not be empty"));
  return TextPattern::literal(literal);
}

std::string replaced(std::string_view text, const TextPattern& pattern, std::string_view content) {
  std::vector<TextSpan> spans;
  pattern.cut(text, spans);
  std::string out;
  out.reserve(text.size());
  for (const TextSpan& span : spans) out += span.is_match ? content : text.substr(span.begin, span.end - span.begin);
  return out;
}

TextNormalizer::TextNormalizer(const nlohmann::json* json, const std::string& place) {
  if (json != nullptr) read(*json, place);
}

void TextNormalizer::read(const nlohmann::json& json, const std::string& place) {
  JsonFields fields(json, place);
  const std::string& type = fields.text("type");
  if (type == "Sequence") {
    const nlohmann::json& parts = fields.at("normalizers");
    if (!parts.is_array()) throw DataError(concat(place, ".normalizers must be a list"));
    for (size_t i = 0; i < parts.size(); ++i) read(parts[i], concat(place, ".normalizers[", i, "]"));
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    const UnicodeForm form = type == "NFC"    ? UnicodeForm::kNfc
                             : type == "NFD"  ? UnicodeForm::kNfd
                             : type == "NFKC" ? UnicodeForm::kNfkc
                                              : UnicodeForm::kNfkd;
    steps_.push_back({.kind = Kind::kForm, .form = form, .content = {}, .pattern = {}});
  } else if (type == "Prepend") {
    steps_.push_back({.kind = Kind::kPrepend, .form = {}, .content = fields.short_text("prepend", kMostContentBytes), .pattern = {}});
  } else if (type == "Replace") {
    Step step{.kind = Kind::kReplace, .form = {}, .content = fields.short_text("content", kMostContentBytes), .pattern = {}};
    step.pattern.push_back(read_pattern(fields.at("pattern"), place + ".pattern"));
    steps_.push_back(std::move(step));
  } else {
    throw DataError(concat(place, " is of the type '", printable(type),
                           "', which is not implemented; NFC, NFD, NFKC, NFKD, Prepend, Replace and Sequence are"));
  }
  fields.finish();
}

std::string TextNormalizer::operator()(std::string_view text, bool starts_document) const {
  std::string out(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kForm: out = normalized(out, step.form); break;
      case Kind::kPrepend:
        if (starts_document && !out.empty()) out.insert(0, step.content);
        break;
      case Kind::kReplace: out = replaced(out, step.pattern[0], step.content); break;
    }
  }
  return out;
}

}  // namespace pimoe
