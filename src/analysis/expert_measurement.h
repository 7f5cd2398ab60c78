#pragma once

#include "analysis/expert_report.h"
#include "train/loaded_model.h"

#include <filesystem>

namespace pimoe {

/// What to read, and how.
struct ExpertsMeasurement {
  std::filesystem::path data;       ///< corpus prefix; read from its beginning
  std::filesystem::path tokenizer;  ///< the model's own
  int64_t batches = 0;              ///< global batches, at most
  TextKind kind = TextKind::kPython;
};

/// Runs the model over the corpus' first sequences, in the corpus' order, and counts which classes of tokens each expert was sent.
///
/// @returns everything but `checkpoint`
/// @throws DataError where corpus or tokenizer are not the model's
ExpertReport measure_experts(const LoadedModel& loaded, const ExpertsMeasurement& options);

}  // namespace pimoe
