#include "train/forecast.h"

#include "data/sample_blend.h"
#include "parallel/direct_exchange.h"
#include "parallel/parameter_buckets.h"
#include "train/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace pimoe {
namespace {

/// What a rank sends so that each of n ranks has its n-th of a sum, or all of what each has an n-th of: both pass (n - 1) / n of it on.
int64_t ring_bytes(int64_t bytes, int64_t ranks) { return bytes / ranks * (ranks - 1); }

}  // namespace

int64_t MemoryForecast::peak(bool on_gpu) const {
  if (on_gpu) return state() + activations.peak();
  return state() + (saves_beside_training ? activations.peak() + snapshot : std::max(activations.peak(), snapshot));
}

Forecast::Forecast(const TrainConfig& config, const ForecastPlace& place)
    : config_(config),
      place_(place),
      expert_parallel_(
          choose_expert_parallel(config.mesh.expert_parallel, config.model.moe.common_divisor(), place.ranks, place.node_ranks)),
      keeps_documents_apart_(keeps_documents_apart(config.data)) {
  const ProcessMesh mesh(PlannedMesh{.ranks = place.ranks, .expert_parallel = expert_parallel_});
  Transformer model(config.model, place.dtype, mesh);
  ParameterBuckets buckets(model.parameters(), mesh, ParameterBuckets::kBucketBytes, /*trained=*/true);
  const Optimizer optimizer(buckets, config.optimizer, mesh);
  state_.weights = buckets.weight_bytes();
  state_.gradients = buckets.gradient_bytes();
  state_.optimizer = optimizer.state_bytes();

  const int64_t wide = ElementBytes::of(place.dtype).wide;
  rings_ = {RingTraffic{.ranks = place.ranks}, RingTraffic{.ranks = place.ranks / expert_parallel_, .stride = expert_parallel_}};
  int64_t biggest_share = 0;
  for (const Bucket& bucket : buckets.buckets()) {
    RingTraffic& ring = rings_[bucket.group == Group::kExpertReplica ? 1 : 0];
    ring.gradients += ring_bytes(static_cast<int64_t>(bucket.gradients.nbytes()), ring.ranks);
    ring.weights += ring_bytes(static_cast<int64_t>(bucket.weights.nbytes()), ring.ranks);
    biggest_share += 3 * (bucket.slice_end - bucket.slice_begin) * wide;
  }
  for (const auto& parameter : model.parameters()) checkpoint_bytes_ += 3 * parameter->box.global_numel() * wide;
  checkpoint_bytes_ += config.model.moe_layers() * config.model.moe.experts * wide;  // loss-free biases
  const CheckpointConfig& checkpoint = config.checkpoint;
  state_.saves_beside_training = checkpoint.saves_beside_training() && checkpoint.every_steps > 0;
  state_.snapshot = 2 * std::min(checkpoint.part_bytes, biggest_share) + (state_.saves_beside_training ? biggest_share : 0);
}

int64_t Forecast::micro_steps() const {
  return StepPlan(config_.train.global_batch, static_cast<int>(place_.ranks), config_.train.micro_batch).micro_steps();
}

int64_t Forecast::sequences_at_once() const {
  return StepPlan(config_.train.global_batch, static_cast<int>(place_.ranks), config_.train.micro_batch).share(0, 0).second;
}

MicroBatchShape Forecast::shape(double skew) const {
  const StepPlan plan(config_.train.global_batch, static_cast<int>(place_.ranks), config_.train.micro_batch);
  MicroBatchShape shape;
  shape.skew = skew;
  shape.threads = config_.train.threads > 0 ? config_.train.threads : at::get_num_threads();
  shape.documents = keeps_documents_apart_;
  shape.tokens.sequence_length = config_.model.sequence_length;
  shape.tokens.on_gpu = place_.on_gpu;
  shape.tokens.reach_each_other = place_.on_gpu && expert_parallel_ <= kDirectRanks && place_.node_ranks % expert_parallel_ == 0;
  shape.tokens.fuses_mlp = place_.fuses_mlp && place_.dtype == at::kBFloat16;
  // The first ranks, and the first micro-step, have a sequence more where it does not come out even.
  for (int rank = 0; rank < expert_parallel_; ++rank) {
    shape.tokens.of_rank.push_back(plan.share(0, rank).second * config_.model.sequence_length);
  }
  return shape;
}

RoutedRows Forecast::rows(double skew) const { return routed_rows(config_.model.moe, shape(skew).tokens, skew); }

MemoryForecast Forecast::memory(double skew) const {
  MemoryForecast memory = state_;
  memory.activations = activation_bytes(config_.model, config_.train.recompute, shape(skew), ElementBytes::of(place_.dtype));
  return memory;
}

TrafficForecast Forecast::traffic() const {
  TrafficForecast traffic;
  for (const RingTraffic& ring : rings_) {
    traffic.gradients += ring.gradients;
    traffic.weights += ring.weights;
  }
  const MoeConfig& moe = config_.model.moe;
  if (config_.model.moe_layers() == 0 || expert_parallel_ == 1) return traffic;
  const ElementBytes bytes = ElementBytes::of(place_.dtype);
  const int64_t row = config_.model.width * bytes.compute;
  const RoutedRows rows = this->rows(1.0);
  const bool by_token = rows.exchange != MoeExchange::kRows;
  // Dispatch and combine, and both ways back; gates travel with each token, early ones as one number with each row, and so do their gradients.
  const int64_t gate = by_token ? moe.choices * bytes.wide : moe.memory == MoeMemory::kFast ? 0 : bytes.wide;
  int64_t each = 4 * row + 2 * gate;
  const bool again = config_.train.recompute != RecomputePolicy::kNone;
  if (again || moe.memory == MoeMemory::kLean) each += 2 * row + gate;  // forward once more
  if (again && moe.memory == MoeMemory::kLean) each += 2 * row + gate;  // and once more inside of it
  if (moe.checks == MoeValidate::kFull) each += row + bytes.wide;       // the rows, and a flag that comes back
  const int64_t sent = (by_token ? rows.rounds * rows.copies : rows.sent) * config_.model.moe_layers() * micro_steps();
  traffic.rows = sent / expert_parallel_ * (expert_parallel_ - 1) * each;
  return traffic;
}

}  // namespace pimoe
