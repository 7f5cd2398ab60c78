#pragma once

#include "data/blend_order.h"
#include "data/data_config.h"
#include "data/document_starts.h"
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

/// The samples of a run: each corpus' own, in the order that it has alone, its epochs counted on their own, by turns as BlendOrder says.
/// Samples of one corpus are its SampleReader's. Thread-safe.
class SampleBlend {
 public:
  /// @param corpora         at least one
  /// @param with_documents  document_starts will be asked
  /// @throws DataError for a damaged corpus, or one shorter than S + 1 tokens; ConfigError as BlendOrder
  SampleBlend(const std::vector<BlendedCorpus>& corpora, int64_t sequence_length, uint64_t seed, bool shuffle, bool with_documents = false);
  size_t size() const { return sources_.size(); }
  const TokenFile& corpus(size_t index) const { return sources_[index]->corpus; }
  int64_t samples_per_epoch(size_t index) const { return sources_[index]->reader.samples_per_epoch(); }
  const BlendOrder& order() const { return order_; }
  /// @returns how often each corpus was read through after the first n >= 0 samples of the blend.
  std::vector<double> epochs_before(int64_t sample) const;
  /// Copies the S + 1 tokens of sample n >= 0 of the blend.
  /// @throws DataError with file, position and id for an id outside [0, vocabulary)
  void read(int64_t sample, int64_t vocabulary, int64_t* out) const;
  /// @returns where in the S + 1 tokens of sample n documents begin, rising, the sample's own beginning left out.
  /// REQUIRES with_documents.
  /// @cost  a few small reads of the corpus' index
  std::vector<int64_t> document_starts(int64_t sample) const;

 private:
  struct Source {
    Source(const std::string& prefix, int64_t sequence_length, uint64_t seed, bool shuffle, bool with_documents)
        : corpus(prefix), reader(corpus, sequence_length, seed, shuffle) {
      if (with_documents) documents.emplace(corpus);
    }
    TokenFile corpus;
    SampleReader reader;
    std::optional<DocumentStarts> documents;
  };
  std::vector<std::unique_ptr<Source>> sources_;  ///< a reader keeps the address of its corpus
  BlendOrder order_;
  int64_t sequence_length_;
};

}  // namespace pimoe
