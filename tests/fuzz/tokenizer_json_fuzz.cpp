/// A tokenizer.json, and a text that it encodes: every id is in the vocabulary, and one after the other their texts are the decoded text.
///
/// Input: u8 bytes of the text | the text (as many as there are) | tokenizer.json

#include "fuzz/fuzz_target.h"

#include "base/errors.h"
#include "data/tokenizer.h"

#include <algorithm>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  using namespace pimoe;
  if (count == 0) return 0;
  const size_t text_bytes = std::min<size_t>(bytes[0], count - 1);
  const std::string text(reinterpret_cast<const char*>(bytes) + 1, text_bytes);
  const std::string content(reinterpret_cast<const char*>(bytes) + 1 + text_bytes, count - 1 - text_bytes);
  try {
    const Tokenizer tokenizer(content, "tokenizer.json");
    require(tokenizer.end_of_document() >= 0 && tokenizer.end_of_document() < tokenizer.vocabulary(), "the end token is in the vocabulary");
    const std::vector<int32_t> ids = tokenizer.encode(text);
    std::string texts;
    for (const int32_t id : ids) texts += tokenizer.text(id);  // throws for an id outside the vocabulary
    require(texts.ends_with(tokenizer.decode(ids)), "the ids' texts are the decoded text", texts);
    require(tokenizer.encode(text) == ids, "what is remembered of words changes nothing", text);
  } catch (const DataError&) {
  }
  return 0;
}
