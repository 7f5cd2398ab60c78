#pragma once

#include "compress/compression_report.h"
#include "data/token_file.h"
#include "train/loaded_model.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace pimoe {

/// What a model's MoE layers make of some tokens: to see how far off another model's layers are for the same inputs.
class LayerSamples {
 public:
  /// Computes the first 256 tokens of a corpus, or its first sequence where sequences are shorter. Nothing of routers without scores. Collective
  LayerSamples(const LoadedModel& loaded, const TokenFile& corpus);

  /// Adds to each MoE layer |changed - before| / |before| of its output, before the residual stream is added. @param changed  of as many layers of the same
  /// width, in the same layout. Collective
  void add_errors(const LoadedModel& changed, std::vector<LayerChange>& layers) const;

 private:
  std::vector<at::Tensor> outputs_of(const LoadedModel& loaded) const;

  int64_t length_ = 0;               ///< of the sequence
  std::vector<at::Tensor> inputs_;   ///< of each MoE layer [T, D]; T is 0 on ranks that had no sequence
  std::vector<at::Tensor> outputs_;  ///< [T, D] likewise
};

}  // namespace pimoe
