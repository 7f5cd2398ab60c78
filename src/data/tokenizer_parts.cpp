#include "data/tokenizer_parts.h"

#include "base/errors.h"
#include "base/text.h"
#include "data/json_fields.h"

#include <vector>

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

}  // namespace pimoe
