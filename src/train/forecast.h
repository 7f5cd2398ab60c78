#pragma once

/// What a run will need, computed from its configuration alone: no MPI, no GPU, no weights in memory.
///
/// Weights, gradients and optimizer state are those that the classes of training lay out on a planned mesh, whose tensors have no memory;
/// activations are what each layer's own formula says it keeps (transformer.h). docs/check.md shows both beside measurements.

#include "model/transformer.h"
#include "train/train_config.h"

#include <array>
#include <cstdint>

namespace pimoe {

/// Where a run would be.
struct ForecastPlace {
  int64_t ranks = 1;
  int64_t node_ranks = 1;  ///< ranks on a node: for mesh.expert_parallel auto
  bool on_gpu = false;
  bool fuses_mlp = false;  ///< the device has kernels for routed_swiglu_mlp
  at::ScalarType dtype = at::kFloat;
};

/// Memory of the fullest rank, bytes.
struct MemoryForecast {
  int64_t weights = 0;    ///< compute copies, in flat buckets
  int64_t gradients = 0;  ///< flat buckets, at least float32
  int64_t optimizer = 0;  ///< masters and moments of the slices that the rank owns
  ActivationBytes activations;
  int64_t snapshot = 0;  ///< host memory of a checkpoint while it is written: one shard file's elements, twice; beside training also a copy
  bool saves_beside_training = false;

  int64_t state() const { return weights + gradients + optimizer; }
  /// The most on the device at one time. On the CPU what a checkpoint needs is there too: beside the activations, or when they
  /// are not.
  int64_t peak(bool on_gpu) const;
};

/// Bytes that the fullest rank sends to others in one step, at balance.
struct TrafficForecast {
  int64_t rows = 0;       ///< experts' exchange, forward and backward, what recomputation sends again included
  int64_t gradients = 0;  ///< reduce-scatter of the buckets
  int64_t weights = 0;    ///< all-gather of the updated weights

  int64_t all() const { return rows + gradients + weights; }
};

/// The same of one group that shares out sums and weights: its ranks pass them on in a ring.
struct RingTraffic {
  int64_t ranks = 1;
  int64_t stride = 1;  ///< between neighbours
  int64_t gradients = 0;
  int64_t weights = 0;
};

class Forecast {
 public:
  /// @throws ConfigError where the layout does not fit the ranks, as ProcessMesh and MoELayer would
  Forecast(const TrainConfig& config, const ForecastPlace& place);

  /// @param skew  as in routed_rows.h
  MemoryForecast memory(double skew) const;
  TrafficForecast traffic() const;
  /// Of dense weights, which all ranks share, and of experts, which their copies share.
  const std::array<RingTraffic, 2>& rings() const { return rings_; }
  int64_t checkpoint_bytes() const { return checkpoint_bytes_; }  ///< over all ranks, without HDF5's own

  int64_t expert_parallel() const { return expert_parallel_; }
  int64_t micro_steps() const;
  /// Sequences that the fullest rank computes at a time.
  int64_t sequences_at_once() const;
  /// The rows of the fullest rank's experts in one layer and micro-step.
  RoutedRows rows(double skew) const;

 private:
  MicroBatchShape shape(double skew) const;

  TrainConfig config_;
  ForecastPlace place_;
  int64_t expert_parallel_;
  bool keeps_documents_apart_;
  MemoryForecast state_;  ///< what no batch changes
  int64_t checkpoint_bytes_ = 0;
  std::array<RingTraffic, 2> rings_;
};

}  // namespace pimoe
