#include "model/sampling.h"

#include "base/errors.h"
#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/sort.h>

#include <algorithm>
#include <vector>

namespace pimoe {
namespace {

constexpr double kLeastTemperature = 1e-30;

}  // namespace

at::Tensor penalised(const at::Tensor& logits, const std::vector<int64_t>& seen, double penalty) {
  if (penalty == 1.0) return logits;
  at::Tensor result = logits.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true).contiguous();
  double* scores = result.mutable_data_ptr<double>();
  std::vector<bool> done(static_cast<size_t>(result.numel()));
  for (const int64_t id : seen) {
    if (id < 0 || id >= result.numel()) throw ShapeError(concat("penalised: id ", id, " must be in [0, ", result.numel(), ")"));
    if (done[static_cast<size_t>(id)]) continue;
    done[static_cast<size_t>(id)] = true;
    scores[id] = scores[id] > 0 ? scores[id] / penalty : scores[id] * penalty;
  }
  return result;
}

int32_t sample_token(const at::Tensor& logits, const SamplingOptions& options, double draw) {
  // Below it scores over the temperature need not be finite; long before that no score but the largest has a chance.
  if (options.temperature < kLeastTemperature) return static_cast<int32_t>(logits.argmax().item<int64_t>());
  const at::Tensor probabilities = at::softmax(logits.to(at::kDouble) / options.temperature, 0);
  const auto [sorted, order] = at::sort(probabilities, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const double* values = sorted.const_data_ptr<double>();
  const int64_t most = options.top_k > 0 ? std::min(options.top_k, sorted.numel()) : sorted.numel();
  double of_top_k = 0.0;
  for (int64_t at = 0; at < most; ++at) of_top_k += values[at];
  double kept = 0.0;
  int64_t count = 0;
  while (count < most && (count == 0 || kept < options.top_p * of_top_k)) kept += values[count++];
  double left = draw * kept;
  int64_t chosen = 0;
  while (chosen + 1 < count && left >= values[chosen]) left -= values[chosen++];
  return static_cast<int32_t>(order.const_data_ptr<int64_t>()[chosen]);
}

}  // namespace pimoe
