#include "data/text_normalizer.h"

#include <utility>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/json_fields.h"
#include "data/tokenizer_parts.h"

namespace pimoe {

TextNormalizer::TextNormalizer(const nlohmann::json* json, const std::string& place) {
  if (json != nullptr) read(*json, place);
}

void TextNormalizer::read(const nlohmann::json& json, const std::string& place) {
  JsonFields fields(json, place);
  const std::string& type = fields.text("type");
  if (type == "Sequence") {
    fields.each("normalizers", [this](const nlohmann::json& part, const std::string& at) { read(part, at); });
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
    step.pattern.emplace(read_pattern(fields.at("pattern"), place + ".pattern"));
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
      case Kind::kReplace: out = replaced(out, *step.pattern, step.content); break;
    }
  }
  return out;
}

}  // namespace pimoe
