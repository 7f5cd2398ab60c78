#include "train/optimizer.h"

#include "checkpoint/training_state.h"
#include "ops/launch.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace pimoe {

Optimizer::Optimizer(ParameterBuckets& buckets, const OptimizerConfig& config, const ProcessMesh& mesh)
    : config_(config), buckets_(buckets), mesh_(mesh) {
  for (Bucket& bucket : buckets.buckets()) {
    const at::Tensor weights = bucket.weight_slice();
    const at::ScalarType precision = at_least_float32(bucket.dtype);
    Slice slice;
    slice.bucket = &bucket;
    slice.master = precision == bucket.dtype ? weights : at::zeros(weights.sizes(), weights.options().dtype(precision));
    slice.exp_avg = at::zeros(weights.sizes(), weights.options().dtype(precision));
    slice.exp_avg_sq = at::zeros_like(slice.exp_avg);
    slice.step = at::zeros({}, weights.options().dtype(at::kFloat));
    slices_.push_back(std::move(slice));
  }
}

void Optimizer::initialize(uint64_t seed) {
  constexpr int64_t kChunk = int64_t{1} << 22;  // elements drawn at a time: bounds host memory whatever the model's size
  constexpr int64_t kDrawBytes = 64;            // of memory traffic that take as long as a number to draw
  // One buffer for all: fresh pages for each chunk would take longer to map than the numbers to draw.
  const at::Tensor values = at::empty({kChunk}, at::kDouble);
  double* out = values.mutable_data_ptr<double>();
  for (Slice& slice : slices_) {
    const at::Tensor staged = at::empty({kChunk}, slice.master.scalar_type());
    slice.master.zero_();
    for (const auto& [piece, begin] : slice.bucket->slice_pieces()) {
      const auto owner = std::find_if(slice.bucket->entries.begin(), slice.bucket->entries.end(),
                                      [&name = piece.name](const Bucket::Entry& entry) { return entry.parameter->name == name; });
      for (int64_t done = 0; done < piece.numel(); done += kChunk) {
        const int64_t count = std::min(kChunk, piece.numel() - done);
        parallel_rows(count, kDrawBytes, [&, &piece = piece](int64_t begin_value, int64_t end_value) {
          Piece part = piece;
          part.begin = piece.begin + done + begin_value;
          part.end = piece.begin + done + end_value;
          initial_values(*owner->parameter, part, seed, out + begin_value);
        });
        const at::Tensor rounded = staged.narrow(0, 0, count);
        rounded.copy_(values.narrow(0, 0, count));
        slice.master.narrow(0, begin + done, count).copy_(rounded);
      }
    }
  }
  publish();
}

double Optimizer::gradient_norm(double loss_scale) const {
  at::Tensor total = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(mesh_.device()));
  // On the CPU one float32 norm of millions of elements is off by several 1e-4: short rows, and their squares added up in float64.
  constexpr int64_t kRow = 64;  // slices are multiples of it (parameter_buckets.cpp)
  for (const Slice& slice : slices_) {
    const at::Tensor rows = slice.bucket->gradient_slice().view({-1, kRow});
    total += at::linalg_vector_norm(rows, 2, at::IntArrayRef{1}).to(at::kDouble).square().sum();
  }
  mesh_.group(Group::kWorld).all_reduce(total);
  return std::sqrt(total.item<double>()) / loss_scale;
}

void Optimizer::step(double learning_rate, double gradient_norm, double loss_scale) {
  const bool clipped = config_.clip_norm > 0 && gradient_norm > config_.clip_norm;
  const double factor = (clipped ? config_.clip_norm / gradient_norm : 1.0) / loss_scale;
  ++steps_taken_;
  for (Slice& slice : slices_) {
    const at::Tensor gradient = slice.bucket->gradient_slice();
    if (factor != 1.0) gradient.mul_(factor);
    slice.step += 1;
    at::_fused_adamw_({slice.master}, {gradient}, {slice.exp_avg}, {slice.exp_avg_sq}, {}, {slice.step}, learning_rate, config_.beta1,
                      config_.beta2, slice.bucket->decay ? config_.weight_decay : 0.0, config_.epsilon, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
  publish();
}

bool Optimizer::weights_are_finite() const {
  bool finite = true;
  for (const Slice& slice : slices_) {
    const at::Tensor weights = slice.bucket->weight_slice();
    if (weights.numel() == 0) continue;
    // The largest magnitude needs no tensor of its own size, and a NaN anywhere is its result.
    const at::Tensor largest = at::linalg_vector_norm(weights, std::numeric_limits<double>::infinity());
    finite = finite && std::isfinite(largest.item<double>());
  }
  at::Tensor all_finite = at::tensor({static_cast<int64_t>(finite ? 1 : 0)}, at::kLong);
  mesh_.control().all_reduce(all_finite, ReduceOp::kMin);
  return all_finite.item<int64_t>() != 0;
}

bool Optimizer::keeps_master_apart(size_t bucket) const { return slices_[bucket].master.scalar_type() != slices_[bucket].bucket->dtype; }

bool Optimizer::weights_follow_master(size_t bucket) const {
  if (!keeps_master_apart(bucket)) return true;
  const at::Tensor weights = slices_[bucket].bucket->weight_slice();
  // As whole numbers: a NaN is then equal to itself.
  return at::equal(weights.view(at::kShort), slices_[bucket].master.to(weights.scalar_type()).view(at::kShort));
}

void Optimizer::publish() {
  for (Slice& slice : slices_) {
    const at::Tensor weights = slice.bucket->weight_slice();
    if (weights.scalar_type() != slice.master.scalar_type()) weights.copy_(slice.master);
  }
  buckets_.gather_weights(mesh_);
}

void Optimizer::set_steps_taken(int64_t steps) {
  steps_taken_ = steps;
  for (Slice& slice : slices_) slice.step.fill_(static_cast<double>(steps));
}

int64_t Optimizer::state_bytes() const {
  size_t bytes = 0;
  for (const Slice& slice : slices_) {
    bytes += slice.exp_avg.nbytes() + slice.exp_avg_sq.nbytes() + slice.step.nbytes();
    if (slice.master.scalar_type() != slice.bucket->dtype) bytes += slice.master.nbytes();
  }
  return static_cast<int64_t>(bytes);
}

std::vector<StatePiece> Optimizer::state() const {
  std::vector<StatePiece> state;
  for (const Slice& slice : slices_) {
    for (const auto& [piece, begin] : slice.bucket->slice_pieces()) {
      state.push_back({state_kind::kMaster, piece, slice.master.narrow(0, begin, piece.numel())});
      state.push_back({state_kind::kFirstMoment, piece, slice.exp_avg.narrow(0, begin, piece.numel())});
      state.push_back({state_kind::kSecondMoment, piece, slice.exp_avg_sq.narrow(0, begin, piece.numel())});
    }
  }
  return state;
}

}  // namespace pimoe
