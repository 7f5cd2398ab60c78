#pragma once

#include "data/loss_mask.h"
#include "data/token_file.h"

#include <cstdint>
#include <vector>

namespace pimoe {

/// One row of a batch, to be filled in.
struct SampleRow {
  int64_t* tokens = nullptr;         ///< [S]
  int64_t* targets = nullptr;        ///< [S]; -1: does not count
  bool* counted = nullptr;           ///< [S]; false where the row is filled up
  std::vector<int64_t> begins = {};  ///< positions at which documents begin, 0 first; what fills the row up is one too
};

/// Reads sample n of an endless stream of whole documents: each is in one row, from its beginning to its end, and no row has a part of one.
///
/// Documents are laid into rows of S positions once, in an order drawn from the seed, each into the row with the least room that still holds it (best
/// fit); a document of n tokens takes n - 1 positions, for its last token predicts nothing. The rows are permuted anew in each epoch, in O(1)
/// memory. What is left of a row is filled up with token 0, whose targets do not count. A target that the mask does not mark does not count.
/// The same for every world size. Thread-safe.
class PackedReader {
 public:
  struct Options {
    int64_t sequence_length = 0;  ///< S
    uint64_t seed = 0;
    bool shuffle = true;  ///< false: documents and rows in the corpus' order
    bool alone = false;   ///< each document has a row of its own
  };
  /// @param corpus, mask  must outlive the reader; null mask: every token but a document's first is learned
  /// @throws DataError naming a document that is longer than a row, or a corpus in which nothing can be learned
  /// @cost   reads PREFIX.idx; 16 bytes of memory a document
  PackedReader(const TokenFile& corpus, const LossMask* mask, const Options& options);

  int64_t samples_per_epoch() const { return static_cast<int64_t>(row_ends_.size()); }
  /// Share of all positions that tokens take.
  double filling() const;
  /// REQUIRES what follows to be asked of a reader that does not shuffle, and rows in [0, samples_per_epoch()].
  /// @returns positions of a row that tokens take
  int64_t positions(int64_t row) const;
  /// @returns targets of rows [first, end) that count  @cost reads their mask
  int64_t targets(int64_t first, int64_t end) const;
  /// Fills in row n >= 0. @throws DataError for an id outside [0, vocabulary)
  void read(int64_t sample, int64_t vocabulary, SampleRow& row) const;

 private:
  struct Document {
    int64_t begin = 0;  ///< in the stream
    int64_t tokens = 0;
  };
  std::vector<Document> documents_of(const TokenFile& corpus) const;
  /// @returns the row of each of `documents`, which stand in the order in which they are laid
  std::vector<int64_t> lay(const std::vector<Document>& documents);

  const TokenFile& corpus_;
  const LossMask* mask_;
  Options options_;
  uint64_t order_key_;
  std::vector<Document> documents_;  ///< row by row
  std::vector<int64_t> row_ends_;    ///< one past each row's last in documents_
};

}  // namespace pimoe
