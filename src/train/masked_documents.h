#pragma once

#include "data/loss_mask.h"
#include "data/packed_reader.h"
#include "train/validation.h"

#include <cstdint>
#include <functional>
#include <optional>

namespace pimoe {

/// What a validation reads of a corpus with a loss mask: its documents in order, each alone in a row, so that none sees another; those tokens count that
/// the mask marks. Where the plan takes every token, or there is no mask to be asked, there are none.
class MaskedDocuments {
 public:
  /// @param corpus  must outlive it
  /// @throws DataError as LossMask and PackedReader; if none of the documents that the plan reads has a token that counts
  MaskedDocuments(const TokenFile& corpus, int64_t sequence_length, const ValidationPlan& plan);

  bool exist() const { return reader_.has_value(); }
  int64_t count() const { return count_; }        ///< documents that are read
  int64_t targets() const { return targets_; }    ///< tokens of them that count
  int64_t left_out() const { return left_out_; }  ///< tokens of the other documents that would

  /// Calls `see` with each target. @throws DataError for an id outside [0, vocabulary)
  void for_each_target(int64_t vocabulary, const std::function<void(int64_t id)>& see) const;
  /// As cross_entropy_of. Rows are no longer than the longest that all ranks compute together. Collective.
  std::optional<double> cross_entropy(const Transformer& model, const ProcessMesh& mesh, const ValidationWatch& watch,
                                      const PredictionView& see = nullptr) const;

 private:
  at::Tensor sum_of_rows(const Transformer& model, const ProcessMesh& mesh, int64_t first, int64_t count, const PredictionView& see) const;

  ValidationPlan plan_;
  int64_t sequence_length_;
  std::optional<LossMask> mask_;
  std::optional<PackedReader> reader_;
  int64_t count_ = 0;
  int64_t targets_ = 0;
  int64_t left_out_ = 0;
};

}  // namespace pimoe
