#include "data/tokenizer_json.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "base/errors.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/added_tokens.h"
#include "data/bpe_model.h"
#include "data/end_token.h"
#include "data/json_fields.h"
#include "data/piece_texts.h"
#include "data/pre_tokenizer.h"
#include "data/text_normalizer.h"
#include "data/tokenizer_parts.h"

namespace pimoe {
namespace {

constexpr size_t kMostFileBytes = 256 << 20;
constexpr size_t kMostAddedTokenBytes = 1024;

/// What a post_processor puts around a text is never asked for; that it is of a known kind is.
void check_post_processor(const nlohmann::json* json, const std::string& place) {
  if (json == nullptr) return;
  JsonFields fields(*json, place);
  const std::string& type = fields.text("type");
  if (type == "Sequence") {
    fields.each("processors", [](const nlohmann::json& part, const std::string& at) { check_post_processor(&part, at); });
  } else if (type == "ByteLevel") {
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.ignore(key);
  } else if (type == "TemplateProcessing") {
    for (const char* key : {"single", "pair", "special_tokens"}) fields.ignore(key);
  } else {
    throw DataError(
        concat(place, " is of the type '", printable(type), "', which is not implemented; ByteLevel, TemplateProcessing and Sequence are"));
  }
  fields.finish();
}

AddedToken read_added_token(const nlohmann::json& json, const std::string& place) {
  JsonFields fields(json, place);
  AddedToken token;
  token.content = fields.short_text("content", kMostAddedTokenBytes);
  if (token.content.empty()) throw DataError(concat(place, ".content must not be empty"));
  token.id = static_cast<int32_t>(fields.number("id", kMostTokens));
  token.is_special = fields.flag("special", false);
  token.is_normalized = fields.flag("normalized", !token.is_special);
  token.single_word = fields.flag("single_word", false);
  token.takes_left = fields.flag("lstrip", false);
  token.takes_right = fields.flag("rstrip", false);
  fields.finish();
  return token;
}

std::vector<AddedToken> read_added_tokens(const nlohmann::json* json, const std::string& place) {
  std::vector<AddedToken> tokens;
  if (json == nullptr) return tokens;
  if (!json->is_array()) throw DataError(concat(place, " must be a list"));
  std::set<std::string> contents;
  for (size_t i = 0; i < json->size(); ++i) {
    tokens.push_back(read_added_token((*json)[i], concat(place, "[", i, "]")));
    if (!contents.insert(tokens.back().content).second) {
      throw DataError(concat(place, "[", i, "]: '", printable(tokens.back().content), "' is there twice"));
    }
  }
  return tokens;
}

class TokenizerJson : public TokenizerModel {
 public:
  TokenizerJson(const nlohmann::json& json, const std::string& name, const std::filesystem::path& folder)
      : TokenizerJson(JsonFields(json, name), concat(name, ": "), name, folder) {}

  int64_t vocabulary() const override { return static_cast<int64_t>(pieces_.size()); }
  int32_t end_of_document() const override { return end_of_document_; }
  const std::string& piece(int32_t id) const override { return pieces_[static_cast<size_t>(id)]; }
  const std::string& text(int32_t id) const override { return texts_[static_cast<size_t>(id)]; }
  size_t spaces_in_front() const override { return spaces_in_front_; }

  void encode(std::string_view text, bool starts_document, std::vector<int32_t>& out) const override {
    const Borrowed workplace(*this);
    while (!text.empty()) {
      const size_t valid = valid_utf8_prefix(text);
      if (valid > 0) encode_valid(text.substr(0, valid), starts_document, *workplace, out);
      starts_document = false;
      text.remove_prefix(valid);
      if (text.empty()) return;
      // A byte that begins no character; behind it another may.
      model_->encode_bytes(text.substr(0, 1), out);
      text.remove_prefix(1);
    }
  }

 private:
  /// What one thread needs while it encodes.
  struct Workplace {
    BpeModel::Memory memory;
    std::deque<std::string> made;
    std::vector<std::string_view> words;
    std::vector<AddedTokens::Piece> pieces;
    std::vector<AddedTokens::Piece> normalized_pieces;
  };

  TokenizerJson(JsonFields fields, const std::string& prefix, const std::string& name, const std::filesystem::path& folder)
      : normalizer_(fields.find("normalizer"), prefix + "normalizer"),
        pre_tokenizer_(fields.find("pre_tokenizer"), prefix + "pre_tokenizer") {
    if (fields.find("version") != nullptr && fields.text("version") != "1.0") {
      throw DataError(concat(prefix, "version (", printable(fields.text("version")), ") must be 1.0"));
    }
    for (const char* key : {"truncation", "padding"}) fields.ignore(key);
    check_post_processor(fields.find("post_processor"), prefix + "post_processor");
    const PieceTexts texts(fields.find("decoder"), prefix + "decoder");
    spaces_in_front_ = texts.spaces_in_front();
    const std::vector<AddedToken> added = read_added_tokens(fields.find("added_tokens"), prefix + "added_tokens");
    model_.emplace(fields.at("model"), prefix + "model", pre_tokenizer_.is_byte_level());
    fields.finish();

    list_pieces(added, prefix);
    add_tokens(added, prefix);
    TextMap<int32_t> ids = model_->vocabulary();
    std::set<int32_t> special;
    for (const AddedToken& token : added) {
      ids.emplace(token.content, token.id);
      if (token.is_special) special.insert(token.id);
    }
    end_of_document_ = find_end_token(
        folder, name,
        [&](const std::string& content) {
          const auto found = ids.find(content);
          return found == ids.end() ? std::nullopt : std::optional(found->second);
        },
        vocabulary(), [&](int32_t id) { return special.contains(id); });
    special.insert(end_of_document_);
    texts_.resize(pieces_.size());
    for (size_t id = 0; id < pieces_.size(); ++id) {
      if (!special.contains(static_cast<int32_t>(id))) texts_[id] = texts.text_of(pieces_[id]);
    }
  }

  /// Puts the model's and the added tokens' contents in the order of their ids.
  void list_pieces(const std::vector<AddedToken>& added, const std::string& prefix) {
    const TextMap<int32_t>& vocabulary = model_->vocabulary();
    int64_t most = 0;
    for (const auto& [piece, id] : vocabulary) most = std::max<int64_t>(most, id + 1);
    for (const AddedToken& token : added) most = std::max<int64_t>(most, token.id + 1);
    const auto count = static_cast<int64_t>(vocabulary.size() + added.size());
    if (most == 0) throw DataError(concat(prefix, "model.vocab is empty"));
    if (most > 2 * count + 1024) {
      throw DataError(concat(prefix, "ids reach up to ", most - 1, ", and there are ", count, " tokens: most ids would have none"));
    }
    pieces_.resize(static_cast<size_t>(most));
    std::vector<bool> is_taken(pieces_.size());
    const auto put = [&](const std::string& piece, int32_t id) {
      const auto at = static_cast<size_t>(id);
      if (is_taken[at] && pieces_[at] != piece) {
        throw DataError(concat(prefix, "the id ", id, " is both '", printable(pieces_[at]), "' and '", printable(piece), "'"));
      }
      is_taken[at] = true;
      pieces_[at] = piece;
    };
    for (const auto& [piece, id] : vocabulary) put(piece, id);
    for (const AddedToken& token : added) {
      const auto in_model = vocabulary.find(token.content);
      if (in_model != vocabulary.end() && in_model->second != token.id) {
        throw DataError(concat(prefix, "added_tokens: '", printable(token.content), "' has the id ", token.id, ", and in model.vocab ",
                               in_model->second));
      }
      put(token.content, token.id);
    }
  }

  /// Special tokens come first, as in the package: of two that the normalizer makes alike the first counts.
  void add_tokens(const std::vector<AddedToken>& added, const std::string& prefix) {
    for (const bool is_special : {true, false}) {
      for (AddedToken token : added) {
        if (token.is_special != is_special) continue;
        if (!token.is_normalized) {
          raw_tokens_.add(token);
          continue;
        }
        token.content = normalizer_(token.content, true);
        if (token.content.empty() || token.content.size() > 2 * kMostAddedTokenBytes) {
          throw DataError(concat(prefix, "added_tokens: the normalizer makes '", printable(pieces_[static_cast<size_t>(token.id)]), "' ",
                                 token.content.empty() ? "empty" : "too long"));
        }
        normalized_tokens_.add(token);
      }
    }
  }

  void encode_valid(std::string_view text, bool starts_document, Workplace& workplace, std::vector<int32_t>& out) const {
    raw_tokens_.cut(text, workplace.pieces);
    const char* const begin = text.data();
    for (const AddedTokens::Piece& piece : workplace.pieces) {
      if (piece.id >= 0) {
        out.push_back(piece.id);
        continue;
      }
      const bool is_start = starts_document || piece.text.data() != begin;  // what follows an added token is a text of its own
      if (normalizer_.is_identity()) {
        encode_normalized(piece.text, is_start, workplace, out);
      } else {
        encode_normalized(normalizer_(piece.text, is_start), is_start, workplace, out);
      }
    }
  }

  void encode_normalized(std::string_view text, bool starts_document, Workplace& workplace, std::vector<int32_t>& out) const {
    normalized_tokens_.cut(text, workplace.normalized_pieces);
    const char* const begin = text.data();
    for (const AddedTokens::Piece& piece : workplace.normalized_pieces) {
      if (piece.id >= 0) {
        out.push_back(piece.id);
        continue;
      }
      workplace.made.clear();
      pre_tokenizer_.cut(piece.text, starts_document || piece.text.data() != begin, workplace.made, workplace.words);
      for (const std::string_view word : workplace.words) model_->encode(word, workplace.memory, out);
    }
  }

  /// A workplace for the time of one call: of an earlier call, with the words that it remembers, or a new one.
  class Borrowed {
   public:
    explicit Borrowed(const TokenizerJson& owner) : owner_(owner) {
      const std::lock_guard lock(owner.mutex_);
      if (!owner.idle_.empty()) {
        workplace_ = std::move(owner.idle_.back());
        owner.idle_.pop_back();
      } else {
        workplace_ = std::make_unique<Workplace>();
      }
    }
    ~Borrowed() {
      const std::lock_guard lock(owner_.mutex_);
      owner_.idle_.push_back(std::move(workplace_));
    }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    Workplace& operator*() const { return *workplace_; }

   private:
    const TokenizerJson& owner_;
    std::unique_ptr<Workplace> workplace_;
  };

  TextNormalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::optional<BpeModel> model_;
  AddedTokens raw_tokens_;
  AddedTokens normalized_tokens_;
  std::vector<std::string> pieces_;
  std::vector<std::string> texts_;  ///< what each id decodes to
  size_t spaces_in_front_ = 0;
  int32_t end_of_document_ = -1;

  mutable std::mutex mutex_;  ///< guards idle_
  mutable std::vector<std::unique_ptr<Workplace>> idle_;
};

}  // namespace

std::unique_ptr<TokenizerModel> read_tokenizer_json(const std::string& content, const std::string& name,
                                                    const std::filesystem::path& folder) {
  const std::string title = concat("tokenizer ", name);
  if (content.size() > kMostFileBytes) {
    throw DataError(concat(title, " has ", grouped(static_cast<int64_t>(content.size())), " bytes, and may have at most ",
                           grouped(static_cast<int64_t>(kMostFileBytes))));
  }
  return std::make_unique<TokenizerJson>(parse_sorted_strict_json(content, title), title, folder);
}

}  // namespace pimoe
