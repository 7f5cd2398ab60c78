#pragma once

#include "data/corpus_builder.h"
#include "data/corpus_facts.h"
#include "data/token_file.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace pimoe {

/// Sends conversations, with what is learned of them, to the training or the validation part of a corpus, and counts.
class ConversationSink {
 public:
  /// @param options  must outlive it
  ConversationSink(const CorpusOptions& options, int64_t vocabulary);

  /// One document. @param learned  of each id
  void add(const std::vector<int32_t>& ids, const std::vector<uint8_t>& learned);
  int64_t tokens() const;  ///< of both parts

  /// Everything to the disk; the final names are still untouched.
  /// @throws DataError if a part is empty
  void complete();
  /// An older index must not stand beside a new tokenizer.
  void withdraw_older();
  void finish();
  void describe(CorpusFacts& facts) const;

 private:
  void require_documents(const TokenFileWriter& writer, const char* part) const;

  const CorpusOptions& options_;
  uint64_t split_key_;
  TokenFileWriter training_;
  std::optional<TokenFileWriter> validation_;
  UnigramCounts counts_;
  int64_t document_ = 0;
};

}  // namespace pimoe
