#include "train/optimizer.h"

#include "base/text.h"
#include "checkpoint/training_state.h"
#include "ops/launch.h"
#include "ops/sum_of_squares.h"
#include "parallel/device.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace pimoe {

Optimizer::Optimizer(ParameterBuckets& buckets, const OptimizerConfig& config, const ProcessMesh& mesh)
    : config_(config),
      buckets_(buckets),
      mesh_(mesh),
      found_(at::zeros({1}, at::TensorOptions().dtype(at::kLong).device(mesh.device()))),
      found_on_host_(found_.is_cuda() ? host_buffer(1, at::kLong, mesh.device()).zero_() : found_) {
  for (Bucket& bucket : buckets.buckets()) {
    const at::Tensor weights = bucket.weight_slice();
    const at::ScalarType precision = at_least_float32(bucket.dtype);
    const at::TensorOptions options = weights.options().dtype(precision);
    AdamwState state;
    const bool apart = precision != bucket.dtype;
    state.master = apart ? at::zeros(weights.sizes(), options) : weights;
    state.exp_avg = at::zeros(weights.sizes(), options);
    state.exp_avg_sq = at::zeros(weights.sizes(), options);
    if (apart) state.weights = weights;
    std::vector<int64_t> firsts;
    for (const auto& [piece, begin] : bucket.slice_pieces()) firsts.push_back(begin);
    // A slice without a piece is padding at its bucket's end: nothing moves there.
    slices_.push_back({&bucket, std::move(state), AdamwSums(firsts, weights.numel(), found_)});
  }
}

void Optimizer::initialize(uint64_t seed) {
  constexpr int64_t kChunk = int64_t{1} << 22;  // elements drawn at a time: bounds host memory whatever the model's size
  constexpr int64_t kDrawBytes = 64;            // of memory traffic that take as long as a number to draw
  // One buffer for all: fresh pages for each chunk would take longer to map than the numbers to draw.
  const at::Tensor values = at::empty({kChunk}, at::kDouble);
  double* out = values.mutable_data_ptr<double>();
  for (Slice& slice : slices_) {
    const at::Tensor staged = at::empty({kChunk}, slice.state.master.scalar_type());
    slice.state.master.zero_();
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
        slice.state.master.narrow(0, begin + done, count).copy_(rounded);
      }
    }
  }
  publish();
}

double Optimizer::gradient_norm(double loss_scale) const {
  std::vector<at::Tensor> gradients;
  for (const Slice& slice : slices_) gradients.push_back(slice.bucket->gradient_slice());
  at::Tensor total = sum_of_squares(gradients);
  mesh_.group(Group::kWorld).all_reduce(total);
  return std::sqrt(total.item<double>()) / loss_scale;
}

double Optimizer::clip_factor(double gradient_norm) const {
  return config_.clip_norm > 0 && gradient_norm > config_.clip_norm ? config_.clip_norm / gradient_norm : 1.0;
}

void Optimizer::step(double learning_rate, double gradient_norm, double loss_scale) {
  AdamwStep step{.number = ++steps_taken_,
                 .learning_rate = learning_rate,
                 .beta1 = config_.beta1,
                 .beta2 = config_.beta2,
                 .epsilon = config_.epsilon,
                 .gradient_factor = clip_factor(gradient_norm) / loss_scale};
  for (Slice& slice : slices_) {
    step.weight_decay = slice.bucket->decay ? config_.weight_decay : 0.0;
    adamw(step, slice.bucket->gradient_slice(), slice.state, slice.sums);
  }
  fetch_found();
  buckets_.gather_weights(mesh_);
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

bool Optimizer::keeps_master_apart(size_t bucket) const { return slices_[bucket].state.weights.defined(); }

bool Optimizer::weights_follow_master(size_t bucket) const {
  if (!keeps_master_apart(bucket)) return true;
  const auto& [master, exp_avg, exp_avg_sq, weights] = slices_[bucket].state;
  // As whole numbers: a NaN is then equal to itself.
  return at::equal(weights.view(at::kShort), master.to(weights.scalar_type()).view(at::kShort));
}

void Optimizer::publish() {
  for (Slice& slice : slices_) {
    if (slice.state.weights.defined()) slice.state.weights.copy_(slice.state.master);
  }
  buckets_.gather_weights(mesh_);
  compare_state();
  for (Slice& slice : slices_) slice.sums.changed.zero_();
  found_.zero_();
  fetch_found();
}

void Optimizer::compare_state() {
  for (Slice& slice : slices_) pimoe::compare_state(slice.state, slice.sums);
  fetch_found();
}

void Optimizer::fetch_found() {
  if (found_.is_cuda()) found_on_host_.copy_(found_, /*non_blocking=*/true);
}

std::vector<std::string> Optimizer::changed_state() const {
  const std::array kinds = {state_kind::kMaster, state_kind::kFirstMoment, state_kind::kSecondMoment};  // in the order of the sums
  std::vector<std::string> names;
  for (const Slice& slice : slices_) {
    const at::Tensor changed = slice.sums.changed.cpu();
    const auto* chunks = changed.const_data_ptr<uint8_t>();
    const auto pieces = slice.bucket->slice_pieces();
    for (size_t piece = 0; piece < pieces.size(); ++piece) {
      int found = 0;
      for (size_t chunk = 0; chunk + 1 < slice.sums.begins.size(); ++chunk) {
        const int64_t begin = slice.sums.begins[chunk];
        const bool is_its = begin >= pieces[piece].second && (piece + 1 == pieces.size() || begin < pieces[piece + 1].second);
        if (is_its) found |= chunks[chunk];
      }
      for (size_t kind = 0; kind < kinds.size(); ++kind) {
        if ((found >> kind & 1) != 0) names.push_back(concat(kinds[kind], " of ", pieces[piece].first.name));
      }
    }
  }
  return names;
}

int64_t Optimizer::state_bytes() const {
  size_t bytes = 0;
  for (const Slice& slice : slices_) {
    bytes += slice.state.exp_avg.nbytes() + slice.state.exp_avg_sq.nbytes();
    bytes += slice.sums.device_begins.nbytes() + slice.sums.sums.nbytes() + slice.sums.changed.nbytes();
    if (slice.state.weights.defined()) bytes += slice.state.master.nbytes();
  }
  return static_cast<int64_t>(bytes);
}

std::vector<StatePiece> Optimizer::state() const {
  std::vector<StatePiece> state;
  for (const Slice& slice : slices_) {
    for (const auto& [piece, begin] : slice.bucket->slice_pieces()) {
      state.push_back({state_kind::kMaster, piece, slice.state.master.narrow(0, begin, piece.numel())});
      state.push_back({state_kind::kFirstMoment, piece, slice.state.exp_avg.narrow(0, begin, piece.numel())});
      state.push_back({state_kind::kSecondMoment, piece, slice.state.exp_avg_sq.narrow(0, begin, piece.numel())});
    }
  }
  return state;
}

}  // namespace pimoe
