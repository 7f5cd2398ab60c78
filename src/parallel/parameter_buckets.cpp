#include "parallel/parameter_buckets.h"

#include "base/random.h"
#include "base/text.h"
#include "ops/adamw.h"
#include "parallel/precision.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace pimoe {
namespace {

int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Which parameter lies where: closes a bucket when the next parameter would take its gradients past `bucket_bytes`.
/// Entries begin at multiples of kFlatAlignment, and so do slices: AdamW wants it, and grouped products load whole vectors.
std::vector<Bucket> lay_out(ParameterList& parameters, int64_t bucket_bytes) {
  std::vector<Bucket> buckets;
  std::map<std::tuple<Group, at::ScalarType, bool>, size_t> open;  // index of the bucket that a kind of parameter goes on filling
  for (const auto& parameter : parameters) {
    const auto kind = std::make_tuple(parameter->copies, parameter->dtype, parameter->decay);
    const auto element_bytes = static_cast<int64_t>(c10::elementSize(at_least_float32(parameter->dtype)));
    const int64_t numel = parameter->box.numel();
    const auto found = open.find(kind);
    const bool fits =
        found != open.end() && (rounded_up(buckets[found->second].numel, kFlatAlignment) + numel) * element_bytes <= bucket_bytes;
    if (!fits) {
      open[kind] = buckets.size();
      Bucket& fresh = buckets.emplace_back();
      std::tie(fresh.group, fresh.dtype, fresh.decay) = kind;
    }
    Bucket& bucket = buckets[open[kind]];
    const int64_t begin = rounded_up(bucket.numel, kFlatAlignment);
    bucket.entries.push_back({parameter.get(), begin});
    bucket.numel = begin + numel;
  }
  return buckets;
}

}  // namespace

at::Tensor Bucket::weight_slice() const { return weights.narrow(0, slice_begin, slice_end - slice_begin); }

at::Tensor Bucket::gradient_slice() const { return gradients.narrow(0, slice_begin, slice_end - slice_begin); }

std::vector<std::pair<Piece, int64_t>> Bucket::slice_pieces() const {
  std::vector<std::pair<Piece, int64_t>> pieces;
  for (const Entry& entry : entries) {
    const int64_t begin = std::max(slice_begin, entry.begin);
    const int64_t end = std::min(slice_end, entry.begin + entry.parameter->box.numel());
    if (begin >= end) continue;
    pieces.emplace_back(Piece{entry.parameter->name, entry.parameter->box, begin - entry.begin, end - entry.begin}, begin - slice_begin);
  }
  return pieces;
}

ParameterBuckets::ParameterBuckets(ParameterList& parameters, const ProcessMesh& mesh, int64_t bucket_bytes, bool trained)
    : buckets_(lay_out(parameters, bucket_bytes)) {
  for (Bucket& bucket : buckets_) {
    const Communicator& group = mesh.group(bucket.group);
    bucket.padded_numel = rounded_up(bucket.numel, group.size() * kFlatAlignment);
    const int64_t slice = bucket.padded_numel / group.size();
    bucket.slice_begin = group.rank() * slice;
    bucket.slice_end = bucket.slice_begin + slice;

    const at::TensorOptions options = at::TensorOptions().device(mesh.device()).dtype(bucket.dtype);
    bucket.weights = at::zeros({bucket.padded_numel}, options);
    if (trained) bucket.gradients = at::zeros({bucket.padded_numel}, options.dtype(at_least_float32(bucket.dtype)));
    for (const Bucket::Entry& entry : bucket.entries) {
      Parameter& parameter = *entry.parameter;
      // Detached, so that it is a leaf of its own: the optimizer writes to the flat weights without autograd seeing a write to a view.
      parameter.value = bucket.weights.narrow(0, entry.begin, parameter.box.numel()).view(parameter.box.shape).detach();
      parameter.value.set_requires_grad(trained);
    }
  }
}

int64_t ParameterBuckets::weight_bytes() const {
  int64_t bytes = 0;
  for (const Bucket& bucket : buckets_) bytes += static_cast<int64_t>(bucket.weights.nbytes());
  return bytes;
}

int64_t ParameterBuckets::gradient_bytes() const {
  int64_t bytes = 0;
  for (const Bucket& bucket : buckets_) bytes += bucket.gradients.defined() ? static_cast<int64_t>(bucket.gradients.nbytes()) : 0;
  return bytes;
}

void ParameterBuckets::gather_weights(const ProcessMesh& mesh) {
  for (Bucket& bucket : buckets_) mesh.group(bucket.group).all_gather(bucket.weights, bucket.weight_slice());
}

void initial_values(const Parameter& parameter, const Piece& piece, uint64_t seed, double* out) {
  const Initializer& initializer = parameter.initializer;
  if (initializer.kind == Initializer::Kind::kConstant) {
    std::fill(out, out + piece.numel(), initializer.scale);
    return;
  }
  if (initializer.kind == Initializer::Kind::kFirstElement) {
    std::fill(out, out + piece.numel(), 0.0);
    for (const Run& run : runs_of(piece)) {
      if (run.global_begin == 0 && run.length > 0) out[run.local_begin] = initializer.scale;
    }
    return;
  }
  const uint64_t key = named_key(seed, concat("initial values of ", parameter.name));
  for (const Run& run : runs_of(piece)) {
    double* values = out + run.local_begin;
    random_normal(key, static_cast<uint64_t>(run.global_begin), run.length, values);
    std::for_each(values, values + run.length, [&](double& value) { value *= initializer.scale; });
  }
}

}  // namespace pimoe
