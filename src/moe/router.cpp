#include "moe/router.h"

#include "moe/weights.h"
#include "ops/slot_order.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

namespace pimoe {

Router::Router(ParameterList& parameters, const std::string& name, const MoeConfig& config, int64_t width, at::ScalarType compute_dtype,
               c10::Device device, double initial_deviation)
    : name_(name), config_(config) {
  weight_ = &declare_weight(parameters, name + ".weight", Box::whole({config.experts, width}), Group::kDense,
                            at_least_float32(compute_dtype), initial_deviation);
  bias_ = at::zeros({config.experts}, at::TensorOptions().dtype(at_least_float32(compute_dtype)).device(device));
}

Routing Router::route(const at::Tensor& tokens, const at::Tensor& experts) const {
  if (config_.router.kind == RouterKind::kUniform) return route_uniformly(tokens.size(0));
  const at::Tensor logits = at::linear(tokens.to(weight_->dtype), weight_->value);
  const at::Tensor probabilities = at::softmax(logits, -1);

  Routing routing;
  if (experts.defined()) {
    routing.experts = experts;
  } else {
    routing.experts = top_k(probabilities.detach() + bias_, config_.choices);
  }
  const at::Tensor chosen = probabilities.gather(1, routing.experts.to(at::kLong));
  routing.weights = config_.router.renormalize ? chosen / chosen.sum(-1, true) : chosen;
  routing.probability_sum = probabilities.sum(0);
  routing.z_sum = at::logsumexp(logits, -1).square().sum();
  routing.confidence_sum = std::get<0>(routing.weights.detach().max(-1)).sum();
  return routing;
}

Routing Router::route_uniformly(int64_t tokens) const {
  const int64_t choices = config_.choices;
  Routing routing;
  routing.experts = at::arange(tokens * choices, bias_.options().dtype(at::kInt)).remainder(config_.experts).view({tokens, choices});
  routing.weights = at::full({tokens, choices}, 1.0 / static_cast<double>(choices), bias_.options());
  routing.probability_sum =
      at::full({config_.experts}, static_cast<double>(tokens) / static_cast<double>(config_.experts), bias_.options());
  routing.z_sum = at::zeros({}, bias_.options());
  routing.confidence_sum = at::full({}, static_cast<double>(tokens) / static_cast<double>(choices), bias_.options());
  return routing;
}

}  // namespace pimoe
