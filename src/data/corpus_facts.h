#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

namespace pimoe {

struct CorpusFacts {
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t learned = 0;  ///< tokens whose prediction counts: all, but of conversations
  int64_t validation_documents = 0;
  int64_t validation_tokens = 0;
  int64_t validation_learned = 0;
  int64_t vocabulary = 0;
  int64_t input_bytes = 0;
  int64_t skipped_files = 0;     ///< not UTF-8, or empty
  int64_t skipped_lines = 0;     ///< that are no conversations
  int64_t empty_documents = 0;   ///< left out: blank lines of .jsonl, and texts of no characters
  double unigram_entropy = 0.0;  ///< nats a token, of the training part: what a model that knows only frequencies reaches
  int64_t largest_id = -1;
  std::string dtype;  ///< how a token is stored: "u16", "i32", ...
};

/// How often each id occurs.
class UnigramCounts {
 public:
  void add(int64_t id) {
    if (id >= 0 && id < kTableSize) {
      ++table_[static_cast<size_t>(id)];
    } else {
      ++others_[id];
    }
  }
  int64_t largest_id() const;
  /// @returns the entropy of the ids' distribution, nats a token; 0 of no tokens.
  double entropy() const;

 private:
  static constexpr int64_t kTableSize = 1 << 18;
  std::vector<int64_t> table_ = std::vector<int64_t>(kTableSize);
  std::unordered_map<int64_t, int64_t> others_;
};

/// @returns facts of an existing corpus (counts, entropy over all tokens); vocabulary, input and validation are left at 0.
/// @throws DataError if it is missing or damaged. @cost reads it once.
CorpusFacts inspect_corpus(const std::filesystem::path& prefix);

/// Checks the structure, that every id is in [0, vocabulary), and of a corpus with a loss mask that neither has changed since it was written.
/// @throws DataError with the reason if not. @cost reads the corpus once.
void verify_corpus(const std::filesystem::path& prefix, int64_t vocabulary);

/// @returns the model that `pimoe data build` wrote beside a corpus: PREFIX.model, for PREFIX-validation too; empty if there is none.
std::filesystem::path tokenizer_beside(const std::filesystem::path& prefix);

}  // namespace pimoe
