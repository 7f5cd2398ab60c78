#pragma once

#include "model/decode_graphs.h"
#include "model/key_value_cache.h"
#include "ops/kept_layouts.h"
#include "serve/served_model.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace pimoe {

/// What one rank computes in a step.
struct RankStep {
  std::vector<int64_t> tokens;    ///< part after part
  std::vector<CachedPart> parts;  ///< in the pages of that rank
  int64_t scored() const;         ///< rows of scores that come of it
};

/// What a step gives: on rank 0 of all ranks' parts, rank after rank; elsewhere nothing.
struct StepScores {
  at::Tensor logits;   ///< [Q, V] on the host, float32 or float64
  at::Tensor experts;  ///< [Q, MoE layers, K] int32 on the host; undefined where they were not asked for
};

/// One model with its pages on every rank. Collective: all ranks make the same calls.
class StepRunner {
 public:
  /// @param texts  of a step at most
  StepRunner(ServedModel model, int64_t pages, int64_t page_tokens, int64_t texts);

  /// @param steps     of all ranks, the same everywhere
  /// @param experts   whether the experts of scored tokens are asked for
  /// @cost a forward pass; over several ranks two collectives on the control group
  StepScores run(const std::vector<RankStep>& steps, bool experts);
  /// @returns [E] slots that each expert got so far, over MoE layers and all ranks; empty without experts. Collective
  std::vector<int64_t> expert_load() const;

  const ServedModel& model() const { return model_; }

 private:
  /// @returns on rank 0 all ranks' rows, rank after rank
  at::Tensor gathered(const at::Tensor& rows, const std::vector<RankStep>& steps) const;
  /// This rank's scores, on its device. @param experts  gets each MoE layer's decision, if it is asked for
  at::Tensor scores_of(const RankStep& mine, int64_t most_tokens, std::vector<RoutingRecord>* experts);

  ServedModel model_;
  KeyValueCache cache_;
  std::unique_ptr<KeptLayouts> layouts_;
  std::unique_ptr<DecodeGraphs> graphs_;
  at::Tensor load_;  ///< [E] int64 on the device, this rank's; undefined without experts
};

}  // namespace pimoe
