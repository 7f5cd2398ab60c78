#include "data/tokenizer.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/lfs_pointer.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/sentencepiece_model.h"
#include "data/tokenizer_json.h"
#include "data/tokenizer_model.h"

namespace pimoe {
namespace {

constexpr uint64_t kModelBytesLimit = 1 << 30;

std::string read_model(const std::filesystem::path& model) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(model, ignored)) throw DataError(concat("tokenizer ", model.string(), " is no file"));
  return read_file(model, kModelBytesLimit);
}

std::unique_ptr<TokenizerModel> read(const std::string& content, const std::string& name, const std::filesystem::path& folder) {
  // A SentencePiece model begins with a line feed, JSON's white space too: a name that ends in .json says what is wrong with either.
  if (content.starts_with('{') || name.ends_with(".json")) return read_tokenizer_json(content, name, folder);
  refuse_lfs_pointer(content, concat("tokenizer ", name));
  return read_sentencepiece_model(content, name);
}

bool is_printed_ascii(char byte) { return byte > ' ' && byte < '\x7f'; }

/// @returns whether tokens never reach over the newline: nothing that a tokenizer would take together with it follows
bool ends_a_line(std::string_view text, size_t newline) { return newline + 1 < text.size() && is_printed_ascii(text[newline + 1]); }

}  // namespace

Tokenizer::Tokenizer(const std::filesystem::path& model)
    : model_(read(read_model(model), model.string(), model.has_parent_path() ? model.parent_path() : ".")) {}
Tokenizer::Tokenizer(const std::string& content, const std::string& name) : model_(read(content, name, {})) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

int64_t Tokenizer::vocabulary() const { return model_->vocabulary(); }
int32_t Tokenizer::end_of_document() const { return model_->end_of_document(); }

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool starts_document) const {
  std::vector<int32_t> ids;
  model_->encode(text, starts_document, ids);
  return ids;
}

std::vector<int32_t> Tokenizer::encode_with_special(std::string_view text, bool starts_document) const {
  std::vector<int32_t> ids;
  model_->encode_with_special(text, starts_document, ids);
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids) const {
  std::string text;
  for (const int32_t id : ids) text += this->text(id);
  size_t spaces = 0;
  while (spaces < model_->spaces_in_front() && spaces < text.size() && text[spaces] == ' ') ++spaces;
  text.erase(0, spaces);
  return text;
}

const std::string& Tokenizer::piece(int32_t id) const {
  require_known(id);
  return model_->piece(id);
}

const std::string& Tokenizer::text(int32_t id) const {
  require_known(id);
  return model_->text(id);
}

void Tokenizer::require_known(int32_t id) const {
  if (id >= 0 && id < model_->vocabulary()) return;
  throw DataError(concat("token id (", id, ") must be in [0, ", model_->vocabulary(), "), the tokenizer's vocabulary"));
}

std::filesystem::path tokenizer_in(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return path;
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (std::filesystem::is_regular_file(path / name, ignored)) return path / name;
  }
  throw DataError(concat("the folder ", path.string(), " has no tokenizer: neither tokenizer.json nor tokenizer.model is in it"));
}

size_t Tokenizer::cut_point(std::string_view text, size_t limit) {
  if (text.size() <= limit) return text.size();
  const std::string_view window = text.substr(0, limit);
  const size_t last_newline = window.rfind('\n');
  for (size_t newline = last_newline; newline != std::string_view::npos && newline > 0; newline = window.rfind('\n', newline - 1)) {
    if (ends_a_line(text, newline)) return newline + 1;
  }
  if (last_newline != std::string_view::npos) return last_newline + 1;
  for (size_t space = window.rfind(' '); space != std::string_view::npos && space > 0; space = window.rfind(' ', space - 1)) {
    if (text[space - 1] != ' ') return space;
  }
  return character_boundary(text, limit);
}

}  // namespace pimoe
