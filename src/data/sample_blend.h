#pragma once

#include "data/blend_order.h"
#include "data/data_config.h"
#include "data/document_starts.h"
#include "data/loss_mask.h"
#include "data/packed_reader.h"
#include "data/sample_reader.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// @throws ConfigError as BlendOrder
BlendOrder order_of(const std::vector<BlendedCorpus>& corpora);

/// Whether a corpus' rows are whole documents, and are not cut out of its stream of tokens.
bool lays_documents(Packing packing, const std::string& prefix);

/// Whether some row of the training corpora says where documents begin, for attention that stays inside of them. @cost a look for each one's loss mask
bool keeps_documents_apart(const DataConfig& data);

/// The samples of a run: each corpus' own, in the order that it has alone, its epochs counted on their own, by turns as BlendOrder says.
/// Samples of one corpus are its SampleReader's. Thread-safe.
class SampleBlend {
 public:
  /// @param corpora  at least one
  /// @param choice   how each corpus becomes rows, and which of its tokens count
  /// @throws DataError for a damaged corpus, one shorter than S + 1 tokens, a loss mask that is missing or not the corpus' own, a document longer than a
  ///         row of whole documents; ConfigError as BlendOrder
  SampleBlend(const std::vector<BlendedCorpus>& corpora, int64_t sequence_length, uint64_t seed, bool shuffle,
              const SampleChoice& choice = {});
  size_t size() const { return sources_.size(); }
  const TokenFile& corpus(size_t index) const { return sources_[index]->corpus; }
  int64_t samples_per_epoch(size_t index) const { return sources_[index]->samples_per_epoch(); }
  /// @returns whether rows of this corpus are whole documents; then how much of the rows they fill
  std::optional<double> filling(size_t index) const;
  /// @returns what counts of this corpus; null: every token
  const LossMask* mask(size_t index) const { return sources_[index]->mask ? &*sources_[index]->mask : nullptr; }
  /// @returns whether every row is cut out of a stream, and every target counts
  bool is_plain() const;
  /// @returns whether rows may have positions that hold no token
  bool fills_up() const;
  /// @returns whether a row's documents are told apart, for attention that stays inside of them
  bool keeps_documents_apart() const;
  const BlendOrder& order() const { return order_; }
  /// @returns how often each corpus was read through after the first n >= 0 samples of the blend.
  std::vector<double> epochs_before(int64_t sample) const;
  /// Fills in row n >= 0 of the blend. @throws DataError with file, position and id for an id outside [0, vocabulary)
  void read_row(int64_t sample, int64_t vocabulary, SampleRow& row) const;
  /// Copies the S + 1 tokens of sample n >= 0 of the blend. REQUIRES is_plain().
  /// @throws DataError with file, position and id for an id outside [0, vocabulary)
  void read(int64_t sample, int64_t vocabulary, int64_t* out) const;
  /// @returns where in the S + 1 tokens of sample n documents begin, rising, the sample's own beginning left out.
  /// REQUIRES rows cut out of a stream, and SampleChoice::document_mask.
  /// @cost  a few small reads of the corpus' index
  std::vector<int64_t> document_starts(int64_t sample) const;

 private:
  struct Source {
    Source(const std::string& prefix, int64_t sequence_length, uint64_t seed, bool shuffle, const SampleChoice& choice);
    int64_t samples_per_epoch() const { return packed ? packed->samples_per_epoch() : reader->samples_per_epoch(); }
    TokenFile corpus;
    std::optional<LossMask> mask;
    std::optional<SampleReader> reader;  ///< one of the two
    std::optional<PackedReader> packed;
    std::optional<DocumentStarts> documents;  ///< of a stream with document_mask
  };
  std::vector<std::unique_ptr<Source>> sources_;  ///< a reader keeps the address of its corpus
  BlendOrder order_;
  int64_t sequence_length_;
};

}  // namespace pimoe
