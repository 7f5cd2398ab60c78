#pragma once

#include "base/log.h"
#include "compress/product_samples.h"
#include "data/token_file.h"
#include "parallel/communicator.h"
#include "train/loaded_model.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// What a layer's experts did for the tokens that were seen.
struct LayerImportance {
  at::Tensor loads;    ///< [E] int64: tokens that each expert had something to add to
  at::Tensor experts;  ///< [E] float64: sum over its tokens of gate * |expert's output|   (arXiv 2510.13999, eq. 9, as a sum: load counts)
  /// Of each group of experts, of each hidden layer [n, F] float64: sum over tokens of |h_f| * |column f of the matrix behind it|, in the last hidden
  /// layer times the gate.
  std::vector<std::vector<at::Tensor>> channels;
};

/// Adds these sums up of whatever a model computes while this lives.
class ExpertImportance {
 public:
  /// @param layers  "layers.0.moe", ...: names of MoE layers whose experts are `moe`'s
  /// REQUIRES moe.memory == MoeMemory::kLean: gates then weigh what the last matrix multiplies, so that each row has its gate in it.
  ExpertImportance(ParameterList& parameters, const MoeConfig& moe, const std::vector<std::string>& layers);

  /// @returns the sums over all ranks, of all experts, for each layer; the same on every rank. Collective
  std::vector<LayerImportance> over(const Communicator& ranks) const;

 private:
  /// A matrix that multiplies channels, and the sums over this rank's rows.
  struct Consumer {
    size_t layer = 0, group = 0, hidden = 0;
    int64_t first = 0;  ///< number of this rank's first expert in its layer
    bool is_last = false;
    const Parameter* matrix = nullptr;
    at::Tensor sizes;    ///< [n, F] float64, sum of |h_f|
    at::Tensor outputs;  ///< [n] float64, sum of |output|; of the last alone, and loads too
    at::Tensor loads;    ///< [n] int64
  };
  static void see(Consumer& consumer, const at::Tensor& rows, const at::Tensor& ends);

  MoeConfig moe_;
  size_t layers_;
  std::map<std::string, Consumer> consumers_;  ///< by matrix
  std::optional<MatrixWatch> watch_;
};

/// What experts do for sequences of a corpus from its beginning, `samples` of them or as many as it has. Collective
/// @param loaded  as ExpertImportance requires
/// @throws DataError as ValidationPart; an id beyond the model's vocabulary; CheckpointError where what experts give is not finite
struct MeasuredImportance {
  MeasuredImportance(const LoadedModel& loaded, const TokenFile& corpus, int64_t samples, Logger& log);

  std::vector<LayerImportance> layers;
  int64_t samples = 0;
};

/// @returns on rank 0 for each MoE layer [N, D] some of its input tokens, spread over `samples` sequences from the corpus' beginning; elsewhere nothing
///          that anyone should use. The same tokens in every layout. Collective
std::vector<at::Tensor> sampled_layer_inputs(const LoadedModel& loaded, const TokenFile& corpus, int64_t samples);

}  // namespace pimoe
