#include "bench/steered_router.h"

#include "ops/slot_order.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pimoe {

std::vector<double> zipf_loads(int64_t tokens, int64_t experts, int64_t choices) {
  const auto most = static_cast<double>(tokens);
  std::vector<double> loads(static_cast<size_t>(experts), 0.0);
  double left = most * static_cast<double>(choices);
  double weight = 0.0;  // of the experts that are not full
  for (int64_t expert = 0; expert < experts; ++expert) weight += 1.0 / static_cast<double>(expert + 1);
  for (int64_t expert = 0; expert < experts; ++expert) {  // the first are full first
    const double own = 1.0 / static_cast<double>(expert + 1);
    const double load = std::min(most, left * own / weight);
    loads[static_cast<size_t>(expert)] = load;
    left -= load;
    weight -= own;
  }
  return loads;
}

std::vector<double> group_loads(const at::Tensor& experts, int64_t count, const Communicator& group) {
  at::Tensor counts =
      order_by_expert(experts.reshape({-1}).contiguous(), count).counts.to(at::kLong, /*non_blocking=*/false, /*copy=*/true);
  group.all_reduce(counts);
  const at::Tensor host = counts.cpu();
  return {host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel()};
}

void steer(Router& router, const at::Tensor& tokens, const BatchContext& context, const std::vector<double>& wanted,
           const Communicator& group) {
  constexpr int kMostRounds = 200;
  constexpr double kNear = 0.02;  // of the mean load
  // Each expert has a pace of its own, which falls where it went too far and rises where it did not (Rprop): scores may be of any scale.
  constexpr double kSlower = 0.5;
  constexpr double kFaster = 1.3;
  const at::NoGradGuard no_gradients;
  const size_t experts = wanted.size();
  const double mean = std::accumulate(wanted.begin(), wanted.end(), 0.0) / static_cast<double>(experts);
  std::vector<double> bias(experts, 0.0);
  std::vector<double> pace(experts, 0.1 / static_cast<double>(experts));
  std::vector<double> before(experts, 0.0);
  std::vector<double> best;
  double least = INFINITY;
  for (int round = 0; round < kMostRounds && least > kNear * mean; ++round) {
    router.bias().copy_(at::tensor(bias, at::kDouble));
    const std::vector<double> loads = group_loads(router.route(tokens, context, {}).experts, static_cast<int64_t>(experts), group);
    double worst = 0.0;
    for (size_t expert = 0; expert < experts; ++expert) worst = std::max(worst, std::abs(wanted[expert] - loads[expert]));
    if (worst < least) {
      least = worst;
      best = bias;
    }
    for (size_t expert = 0; expert < experts; ++expert) {
      const double missing = wanted[expert] - loads[expert];
      if (missing * before[expert] != 0) pace[expert] *= missing * before[expert] > 0 ? kFaster : kSlower;
      if (missing != 0) bias[expert] += std::copysign(pace[expert], missing);
      before[expert] = missing;
    }
  }
  router.bias().copy_(at::tensor(best, at::kDouble));
}

}  // namespace pimoe
