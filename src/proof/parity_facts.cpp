#include "proof/parity_facts.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

at::Tensor number(double value) { return at::tensor({value}, at::kDouble); }

/// What a step says before its backward pass, layer by layer.
struct ForwardFacts {
  std::vector<at::Tensor> gates, loads;
  std::vector<double> dropped, confidence, balance_loss, z_loss, scaled_loss;
  at::Tensor logits;  ///< [G S, V]
  double loss = 0.0;
};

Facts listed(const ParityCase& given, const ForwardFacts& forward) {
  Facts facts;
  for (size_t layer = 0; layer < given.layers.size(); ++layer) {
    const std::string& name = given.layers[layer];
    facts.push_back({"gates", name, forward.gates[layer], {}});
    facts.push_back({"load", name, forward.loads[layer], {}, /*exact=*/true});
    facts.push_back({"dropped slots", name, number(forward.dropped[layer]), {}, /*exact=*/true});
    facts.push_back({"gate confidence", name, number(forward.confidence[layer]), {}});
    facts.push_back({"balance loss", name, number(forward.balance_loss[layer]), {}});
    facts.push_back({"z loss", name, number(forward.z_loss[layer]), {}});
    facts.push_back({"scaled balance loss", name, number(forward.scaled_loss[layer]), {}});
  }
  facts.push_back({"logits", "", forward.logits, {}});
  const at::Tensor targets = given.batch.targets().reshape({-1, 1});
  const at::Tensor losses = forward.logits.logsumexp(at::IntArrayRef{-1}, true) - forward.logits.gather(1, targets.clamp_min(0));
  facts.push_back({"loss of each token", "", losses.masked_fill(targets < 0, 0.0), {}});
  facts.push_back({"loss", "", number(forward.loss), {}});
  return facts;
}

at::Tensor first_update(const at::Tensor& gradient, const OptimizerConfig& optimizer, double learning_rate) {
  return learning_rate * gradient / (gradient.abs() + optimizer.epsilon);
}

/// The update is nearly the gradient's sign: where rounding decides the sign of a gradient that is almost 0, weights may step opposite ways. So a
/// weight may lie apart by as much as its update changes while the gradient stays within its tolerance; only what is beyond is a difference.
at::Tensor update_slack(const at::Tensor& gradient, const OptimizerConfig& optimizer, double learning_rate, double apart) {
  return first_update(gradient + apart, optimizer, learning_rate) - first_update(gradient - apart, optimizer, learning_rate);
}

/// Appends what follows from the gradients. @param gradients  before clipping
void add_backward(Facts& facts, const ParityCase& given, const NamedTensors& gradients, const NamedTensors& after, double norm,
                  double clip) {
  const OptimizerConfig& optimizer = given.config.optimizer;
  const double learning_rate = learning_rate_at(0, given.config.train.steps, optimizer);
  double most = 0.0;
  for (const auto& [name, gradient] : gradients) {
    facts.push_back({"gradient", name, gradient, {}});
    most = std::max(most, largest(gradient));
  }
  facts.push_back({"gradient norm", "", number(norm), {}});
  facts.push_back({"clip factor", "", number(clip), {}});
  for (const auto& [name, weight] : after) {
    const at::Tensor& gradient = gradients.at(name);
    const double apart = given.tolerance * std::max(largest(gradient), kNoiseFloor * most);
    facts.push_back({"weight after a step", name, weight, update_slack(gradient * clip, optimizer, learning_rate, apart * clip)});
  }
}

}  // namespace

StartingWeights starting_weights(ObservedModel& model) {
  const at::NoGradGuard no_gradients;
  StartingWeights weights;
  weights.masters = model.masters();
  for (const auto& parameter : model.model().parameters()) {
    weights.computing[parameter->name] = parameter->value.detach().cpu().to(at::kDouble, /*non_blocking=*/false, /*copy=*/true);
    if (parameter->decay) weights.decays.push_back(parameter->name);
  }
  return weights;
}

Facts facts_of(const ParityCase& given, const ObservedStep& seen, const NamedTensors& after) {
  ForwardFacts forward;
  forward.logits = seen.logits;
  forward.loss = seen.record.loss;
  if (seen.record.routing) {
    const RoutingMetrics& routing = *seen.record.routing;
    for (size_t layer = 0; layer < given.layers.size(); ++layer) {
      forward.gates.push_back(seen.gates[static_cast<int64_t>(layer)]);
      forward.loads.push_back(at::tensor(routing.load[layer], at::kLong).to(at::kDouble));
    }
    forward.dropped = routing.dropped_fraction;
    forward.confidence = routing.gate_confidence;
    forward.balance_loss = routing.loss(BalanceRule::kSwitch).unscaled;
    forward.z_loss = routing.loss(BalanceRule::kZ).unscaled;
    forward.scaled_loss = routing.scaled_loss;
  }
  Facts facts = listed(given, forward);
  add_backward(facts, given, seen.gradients, after, seen.record.gradient_norm, seen.clip_factor);
  return facts;
}

Facts facts_of(const ParityCase& given, const ReferenceStep& step, const StartingWeights& weights) {
  ForwardFacts forward;
  forward.gates = step.gates;
  forward.loads = step.loads;
  forward.dropped.assign(given.layers.size(), 0.0);
  forward.confidence = step.confidence;
  forward.balance_loss = step.switch_loss;
  forward.z_loss = step.z_loss;
  forward.scaled_loss = step.scaled_loss;
  forward.logits = step.logits;
  forward.loss = step.loss;
  Facts facts = listed(given, forward);

  double square = 0.0;
  for (const auto& [name, gradient] : step.gradients) square += (gradient * gradient).sum().item<double>();
  const double norm = std::sqrt(square);
  const OptimizerConfig& optimizer = given.config.optimizer;
  const double clip = optimizer.clip_norm > 0 && norm > optimizer.clip_norm ? optimizer.clip_norm / norm : 1.0;
  const double learning_rate = learning_rate_at(0, given.config.train.steps, optimizer);
  NamedTensors after;
  for (const auto& [name, weight] : weights.masters) {
    const bool decays = std::find(weights.decays.begin(), weights.decays.end(), name) != weights.decays.end();
    const double kept = 1.0 - (decays ? learning_rate * optimizer.weight_decay : 0.0);
    after[name] = kept * weight - first_update(step.gradients.at(name) * clip, optimizer, learning_rate);
  }
  add_backward(facts, given, step.gradients, after, norm, clip);
  return facts;
}

ReferenceInput reference_input(const ParityCase& given, const StartingWeights& weights, const at::Tensor& experts) {
  ReferenceInput input;
  input.config = given.config.model;
  input.weights = weights.computing;
  input.biases.assign(given.layers.size(), at::zeros({given.config.model.moe.experts}, at::kDouble));
  input.rows = given.batch.rows;
  input.begins_document = given.batch.begins_document;
  input.micro_steps = given.batch.micro_steps;
  input.seed = static_cast<uint64_t>(given.config.run.seed);
  input.experts = experts;
  return input;
}

Facts decisions(const ParityCase& given, const ReferenceStep* step) {
  Facts facts;
  for (size_t layer = 0; layer < given.layers.size(); ++layer) {
    facts.push_back({"experts chosen", given.layers[layer], number(step != nullptr ? 1.0 - step->shortfall[layer] : 1.0), {}});
  }
  return facts;
}

}  // namespace pimoe
