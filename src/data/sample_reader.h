#pragma once

#include "data/token_file.h"

#include <cstdint>

namespace pimoe {

/// Reads sample n of an endless, shuffled stream: a function of (seed, n) and the corpus alone, so that the global batches are the same for
/// every world size.
///
/// The corpus is one stream of tokens (documents packed, each with its end-of-document token). In each epoch it is cut into samples of
/// S + 1 tokens, neighbours sharing one token, from a random first position below S (so that the cuts differ between epochs), and the
/// samples are permuted in O(1) memory. What is left over at both ends, fewer than 2 S tokens, sits out that epoch. Thread-safe.
class SampleReader {
 public:
  /// @param corpus   must outlive the reader
  /// @param shuffle  false: samples in corpus order from position 0 (validation)
  /// @throws DataError if the corpus is shorter than S + 1 tokens.
  SampleReader(const TokenFile& corpus, int64_t sequence_length, uint64_t seed, bool shuffle);
  int64_t samples_per_epoch() const { return samples_per_epoch_; }
  /// @returns the stream position of the first token of sample n >= 0.
  int64_t begin_of(int64_t sample) const;
  /// Copies the S + 1 tokens of sample n >= 0.
  void read(int64_t sample, int64_t* out) const;

 private:
  const TokenFile& corpus_;
  int64_t sequence_length_;
  bool shuffle_;
  uint64_t order_key_;
  uint64_t first_position_key_;
  int64_t samples_per_epoch_;
};

}  // namespace pimoe
