#include "compress/calibration.h"

#include "base/errors.h"
#include "compress/calibration_pass.h"
#include "data/token_file.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace pimoe {
namespace {

constexpr int kOctaves = 40;  // to either side of one
constexpr int kParts = 16;    // of an octave

/// @param within  0: where the bin begins, 1: where it ends
double size_of_bin(int64_t bin, double within) {
  const double part = static_cast<double>((bin - 1) % kParts) + within;
  return std::ldexp(1 + part / kParts, static_cast<int>((bin - 1) / kParts) - kOctaves);
}

/// The exponent, and the four leading bits of the mantissa. What is not finite says nothing of the others, and counts as nothing.
int64_t bin_of(float value) {
  constexpr uint32_t kInfinity = 0x7F800000U;
  const uint32_t bits = __builtin_bit_cast(uint32_t, value) & 0x7FFFFFFFU;
  if (bits == 0 || bits >= kInfinity) return 0;
  const int64_t exponent = static_cast<int64_t>(bits >> 23) - 127;
  const int64_t part = (bits >> 19) & 15;
  return std::clamp<int64_t>(1 + (exponent + kOctaves) * kParts + part, 1, kSizeBins - 1);
}

}  // namespace

void count_sizes(const at::Tensor& rows, const at::Tensor& ends, at::Tensor& counts) {
  const at::Tensor host = rows.to(at::kFloat).cpu().contiguous();
  const at::Tensor host_ends = ends.defined() ? ends.cpu() : at::Tensor();
  const float* values = host.const_data_ptr<float>();
  int64_t begin = 0;
  for (int64_t group = 0; group < counts.size(0); ++group) {
    const int64_t end = ends.defined() ? host_ends.const_data_ptr<int32_t>()[group] : rows.size(0);
    int64_t* const bins = counts.mutable_data_ptr<int64_t>() + group * kSizeBins;
    for (int64_t at = begin * rows.size(1); at < end * rows.size(1); ++at) ++bins[bin_of(values[at])];
    begin = end;
  }
}

float best_scale(const at::Tensor& counts) {
  const int64_t* bins = counts.const_data_ptr<int64_t>();
  int64_t last = 0;
  for (int64_t bin = 1; bin < kSizeBins; ++bin) {
    if (bins[bin] > 0) last = bin;
  }
  if (last == 0) return 0.0F;
  // From the largest size downwards: what is cut off is a sum over the bins that were passed, of 1, x and x^2.
  double cut = 0.0, cut_sizes = 0.0, cut_squares = 0.0, kept = 0.0;
  for (int64_t bin = 1; bin <= last; ++bin) kept += static_cast<double>(bins[bin]);
  double least = std::numeric_limits<double>::infinity(), best = 0.0;
  for (int64_t bin = last; bin > 0; --bin) {
    const double limit = size_of_bin(bin, 1.0);
    const double error = kept * (limit / 127) * (limit / 127) / 12 + cut_squares - 2 * limit * cut_sizes + limit * limit * cut;
    if (error < least) {
      least = error;
      best = limit;
    }
    const auto count = static_cast<double>(bins[bin]);
    const double size = size_of_bin(bin, 0.5);
    kept -= count;
    cut += count;
    cut_sizes += count * size;
    cut_squares += count * size * size;
  }
  return static_cast<float>(best / 127);
}

SizeCounts::SizeCounts(ParameterList& parameters, const MoeConfig& moe, const std::set<std::string>& names) {
  if (moe.memory != MoeMemory::kFast) throw ShapeError("sizes of rows: gates are not in them under model.moe.memory: fast alone");
  for (const std::string& name : names) {
    const Box& box = parameters.at(name).box;
    counted_[name] = {.box = box, .counts = at::zeros({box.shape.size() == 3 ? box.shape[0] : 1, kSizeBins}, at::kLong)};
  }
  watch_.emplace(parameters, names, [this](const Parameter& matrix, const at::Tensor& rows, const at::Tensor& ends) {
    count_sizes(rows, ends, counted_.at(matrix.name).counts);
  });
}

std::map<std::string, at::Tensor> SizeCounts::over(const Communicator& ranks) const {
  std::map<std::string, at::Tensor> sums;
  for (const auto& [name, counted] : counted_) {
    const bool of_experts = counted.box.global.size() == 3;
    // Copies of an expert, or of a dense matrix, each saw other rows: they are added up.
    at::Tensor everywhere = at::zeros({of_experts ? counted.box.global[0] : 1, kSizeBins}, at::kLong);
    everywhere.narrow(0, of_experts ? counted.box.offset[0] : 0, counted.counts.size(0)).copy_(counted.counts);
    ranks.all_reduce(everywhere);
    sums[name] = everywhere;
  }
  return sums;
}

Calibration::Calibration(const LoadedModel& loaded, const std::filesystem::path& corpus, int64_t samples,
                         const std::set<std::string>& names, Logger& log) {
  const SizeCounts counts(loaded.model->parameters(), loaded.model->config().moe, names);
  samples_ = compute_samples(loaded, TokenFile(corpus), samples, log);
  for (const auto& [name, everywhere] : counts.over(loaded.mesh->control())) {
    const int64_t all = everywhere.size(0);
    const float together = best_scale(everywhere.sum(0));
    at::Tensor scales = at::zeros({all}, at::kFloat);
    for (int64_t expert = 0; expert < all; ++expert) {
      float scale = best_scale(everywhere[expert]);
      if (scale == 0) {
        scale = together;
        ++unseen_;
      }
      scales[expert] = scale;
    }
    scales_[name] = scales;
  }
}

}  // namespace pimoe
