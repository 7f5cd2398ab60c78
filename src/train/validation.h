#pragma once

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
  int64_t batches = 1;      ///< at most so many, from the corpus' beginning
};

/// Mean cross-entropy of a token over a corpus' first sequences, in corpus order: the same number in every layout. Collective.
/// @param leaves  asked before each micro-step, and the same on every rank: whether to break off; null: never
/// @returns nothing where it was broken off
/// @throws DataError for a token beyond the vocabulary
std::optional<double> validation_loss(const Transformer& model, const TokenFile& corpus, const ValidationPlan& plan,
                                      const ProcessMesh& mesh, const std::function<bool()>& leaves = nullptr);

}  // namespace pimoe
