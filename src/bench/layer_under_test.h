#pragma once

#include "bench/bench.h"
#include "moe/moe_layer.h"

#include <cstdint>
#include <vector>

namespace pimoe {

/// A MoE layer of its own with a rank's micro-batch of random tokens, for `pimoe bench`. Gradients are made, and not added up. Collective throughout.
class LayerUnderTest {
 public:
  /// Weights are drawn with run.seed, tokens as Bench has set libtorch's generator. `bench` outlives it.
  explicit LayerUnderTest(const Bench& bench);

  static int64_t tokens_of(const TrainConfig& config) { return config.train.micro_batch * config.model.sequence_length; }

  /// Forward and backward once. Marks the parts forward and backward, then those of forward: route, dispatch, experts, combine.
  void run(Parts& parts);

  struct Memory {
    int64_t kept_bytes = 0;  ///< from forward to backward; without its input and its result, which are others' too
    int64_t peak_bytes = 0;  ///< on top of weights and input (GPU); of the process (CPU)
  };
  Memory memory();

  /// @returns [E] slots of each expert over all ranks, as the router decides now
  std::vector<double> loads() const;
  void steer_to(const std::vector<double>& loads);
  int64_t all_tokens() const { return tokens_.size(0) * mesh_.group(Group::kBatch).size(); }

  /// @returns how many of this rank's tokens come out of a forward pass as numbers that are not finite, when expert 0's last matrix is NaN; it is mended
  ///          afterwards
  int64_t tokens_lost_to_a_broken_expert();

 private:
  TimeMark now() const { return TimeMark::now(mesh_.device()); }
  MoEOutput forward() const;
  void forget_gradients();

  const ProcessMesh& mesh_;
  ParameterList parameters_;
  MoELayer layer_;
  ParameterBuckets buckets_;
  BatchContext context_;
  at::Tensor tokens_;    ///< [T, D]
  at::Tensor gradient_;  ///< of the layer's result
};

}  // namespace pimoe
