#pragma once

#include "data/corpus_builder.h"
#include "data/corpus_facts.h"
#include "data/token_file.h"
#include "data/unfinished_build.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace pimoe {

/// Sends the documents of a corpus that is being built to the training or the validation part, and counts.
class CorpusSink {
 public:
  /// With a loss mask, under temporary names beside the final ones. @param options  must outlive it
  CorpusSink(const CorpusOptions& options, int64_t vocabulary);
  /// Without one, in a folder (unfinished_build.h). @param state  that it goes on from; its parts are empty where it begins
  CorpusSink(const CorpusOptions& options, int64_t vocabulary, const std::filesystem::path& folder, const BuildState& state);

  /// Appends to the document that is being written. @param learned  of each id, with a loss mask
  void add(const std::vector<int32_t>& ids, bool ends_document, const std::vector<uint8_t>& learned = {});
  int64_t tokens() const;  ///< of both parts

  /// What was added is on the disk when this returns. @returns what is known here of a state that can be gone on from
  BuildState save();
  /// Everything to the disk; the final names are still untouched.
  /// @throws DataError if a part is empty
  void complete();
  /// An older index must not stand beside a new tokenizer.
  void withdraw_older();
  void finish();
  void describe(CorpusFacts& facts) const;

 private:
  void count(const std::vector<int32_t>& ids);
  void require_documents(const TokenFileWriter& writer, const char* part) const;

  const CorpusOptions& options_;
  uint64_t split_key_;
  TokenFileWriter training_;
  std::optional<TokenFileWriter> validation_;
  UnigramCounts counts_;
  int64_t document_ = 0;
};

}  // namespace pimoe
