#pragma once

/// A loss over a corpus that is read from its beginning: training's validation, and what `pimoe evaluate` sums up.

#include "data/data_config.h"
#include "data/token_file.h"
#include "model/transformer.h"
#include "parallel/process_mesh.h"

#include <functional>
#include <optional>

namespace pimoe {

/// How a corpus is read for a validation loss.
struct ValidationPlan {
  int64_t batch = 1;        ///< sequences that all ranks compute together
  int64_t micro_batch = 1;  ///< sequences that a rank computes at a time, at most
  int64_t batches = 1;      ///< at most so many, of whole sequences from the corpus' beginning; 0: the whole corpus, to its last token
  LossTokens loss = LossTokens::kAuto;  ///< which tokens count
  bool document_mask = false;           ///< data.document_mask; idle where a loss mask says what counts
};

/// What a plan reads of a corpus: whole sequences of S tokens from its beginning, neighbours sharing one token (the last target of one is the first
/// token of the next), so that each token but the corpus' first is the target of one; then, of the whole corpus, one shorter sequence of what is left.
/// With document_mask each document's first token is no target. Where a loss mask says what counts, a sequence is a document from its beginning to its
/// end, and targets are the tokens that it marks.
struct ValidationPart {
  /// @throws DataError if the corpus is shorter than S + 1 tokens, or, with a loss mask, as PackedReader; if what is read has no target
  ValidationPart(const TokenFile& corpus, int64_t sequence_length, const ValidationPlan& plan);

  int64_t whole = 0;     ///< sequences of S tokens, or of a document
  int64_t rest = 0;      ///< tokens of the shorter one; 0: there is none
  int64_t read = 0;      ///< tokens behind the corpus' first that the sequences reach
  int64_t targets = 0;   ///< tokens that are predicted, whose loss counts
  int64_t left_out = 0;  ///< tokens of the corpus that would have targets' place in more sequences
};

/// Asked before each micro-step with how many are done and how many there are, and the same on every rank. @returns whether to break off
using ValidationWatch = std::function<bool(int64_t done, int64_t micro_steps)>;

/// Shown what each forward pass of this rank predicted.
using PredictionView = std::function<void(const Prediction& prediction)>;

/// Sum of the cross-entropy over what a plan reads, in corpus order: the same number in every layout. Collective.
/// @param watch  null: never breaks off  @param see  null: nobody looks
/// @returns nothing where it was broken off
/// @throws DataError for a token beyond the vocabulary, or a corpus shorter than S + 1 tokens
std::optional<double> cross_entropy_of(const Transformer& model, const TokenFile& corpus, const ValidationPlan& plan,
                                       const ProcessMesh& mesh, const ValidationWatch& watch = nullptr,
                                       const PredictionView& see = nullptr);

/// The mean of it for a target, as training logs it. Collective.
/// @param leaves  asked before each micro-step, and the same on every rank: whether to break off; null: never
/// @returns nothing where it was broken off
/// @throws DataError for a token beyond the vocabulary
std::optional<double> validation_loss(const Transformer& model, const TokenFile& corpus, const ValidationPlan& plan,
                                      const ProcessMesh& mesh, const std::function<bool()>& leaves = nullptr);

}  // namespace pimoe
