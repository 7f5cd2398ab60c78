#include "proof/parity_reference.h"

#include "base/text.h"
#include "proof/parity_attention.h"
#include "proof/parity_router.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

using Weights = std::map<std::string, at::Tensor>;

/// One network: up [F, D] or gate and up [2F, D], middle [F, F] each, down [D, F].
struct Network {
  Activation activation = Activation::kSwiglu;
  at::Tensor up;
  std::vector<at::Tensor> middle;
  at::Tensor down;

  at::Tensor operator()(const at::Tensor& tokens) const {
    at::Tensor hidden = tokens.matmul(up.t());
    if (activation == Activation::kSwiglu || activation == Activation::kGeglu) {
      const int64_t width = down.size(1);
      hidden = act(hidden.slice(1, 0, width)) * hidden.slice(1, width);
    } else {
      hidden = act(hidden);
    }
    for (const at::Tensor& matrix : middle) hidden = act(hidden.matmul(matrix.t()));
    return hidden.matmul(down.t());
  }

  at::Tensor act(const at::Tensor& x) const {
    switch (activation) {
      case Activation::kSwiglu:
      case Activation::kSilu: return x * at::sigmoid(x);  // x / (1 + exp(-x)) has no derivative that float64 can hold below -709
      case Activation::kGeglu:
      case Activation::kGelu: return 0.5 * x * (1.0 + at::erf(x / std::sqrt(2.0)));
      case Activation::kRelu: return at::clamp_min(x, 0);
      case Activation::kRelu2: return at::clamp_min(x, 0) * at::clamp_min(x, 0);
      case Activation::kTanh: return at::tanh(x);
    }
    return x;
  }
};

Network dense_network(const Weights& weights, const std::string& name) {
  return {Activation::kSwiglu, weights.at(name + ".gate_up.weight"), {}, weights.at(name + ".down.weight")};
}

std::vector<Network> expert_networks(const Weights& weights, const std::string& name, const MoeConfig& config) {
  std::vector<Network> networks;
  for (const ExpertGroupConfig& group : config.expert_groups()) {
    const std::string prefix = name + ".experts" + (group.name.empty() ? "" : "." + group.name);
    const bool gated = group.activation == Activation::kSwiglu || group.activation == Activation::kGeglu;
    const auto up = weights.at(prefix + (gated ? ".gate_up.weight" : ".up.weight")).unbind(0);
    const auto down = weights.at(prefix + ".down.weight").unbind(0);
    std::vector<std::vector<at::Tensor>> middle;
    for (int64_t index = 0; index < group.layers - 2; ++index) {
      middle.push_back(weights.at(concat(prefix, ".middle.", index, ".weight")).unbind(0));
    }
    for (size_t expert = 0; expert < static_cast<size_t>(group.count); ++expert) {
      Network network{group.activation, up[expert], {}, down[expert]};
      for (const auto& layer : middle) network.middle.push_back(layer[expert]);
      networks.push_back(std::move(network));
    }
  }
  return networks;
}

/// What the experts make of the tokens, each by itself. @param tokens [T, D]
at::Tensor experts_output(const at::Tensor& tokens, const ReferenceRouting& routing, const Weights& weights, const std::string& name,
                          const MoeConfig& config) {
  at::Tensor output = at::zeros_like(tokens);
  const std::vector<Network> networks = expert_networks(weights, name, config);
  for (size_t expert = 0; expert < networks.size(); ++expert) {
    const at::Tensor slots = at::nonzero(routing.experts == static_cast<int64_t>(expert));  // [n, 2] token, choice
    if (slots.size(0) == 0) continue;
    const at::Tensor of = slots.select(1, 0);
    const at::Tensor gates = routing.gates.index({of, slots.select(1, 1)}).unsqueeze(1);
    output = output.index_add(0, of, gates * networks[expert](tokens.index_select(0, of)));
  }
  if (config.fallback_width > 0) {
    const at::Tensor unserved = (routing.experts < 0).all(1, true).to(at::kDouble);
    output = output + unserved * dense_network(weights, name + ".fallback")(tokens);
  }
  if (config.shared_width > 0) {
    at::Tensor shared = dense_network(weights, name + ".shared")(tokens);
    if (config.shared_gate) shared = shared * at::sigmoid(tokens.matmul(weights.at(name + ".shared.gate.weight").t()));
    output = output + shared;
  }
  return output;
}

/// [E] slots of each expert among tokens [begin, end).
at::Tensor loads_of(const ReferenceRouting& routing, int64_t begin, int64_t end, int64_t experts) {
  const at::Tensor loads = at::zeros({experts}, at::kDouble);
  for (int64_t expert = 0; expert < experts; ++expert) {
    loads[expert] = (routing.experts.slice(0, begin, end) == expert).sum().to(at::kDouble);
  }
  return loads;
}

/// E * sum_i f_i P_i over tokens [begin, end), f from these loads. @source arXiv 2101.03961 eq. 4-6
at::Tensor switch_loss(const ReferenceRouting& routing, int64_t begin, int64_t end, const at::Tensor& loads) {
  const at::Tensor share = loads / loads.sum().clamp_min(1);
  return static_cast<double>(loads.numel()) * (share * routing.normalised.slice(0, begin, end).mean(0)).sum();
}

/// A layer's balance losses. Adds unscaled and scaled numbers to `step`. @returns the scaled sum, differentiable
at::Tensor balance_losses(const ReferenceRouting& routing, const ReferenceInput& input, ReferenceStep& step) {
  const BalanceConfig& balance = input.config.moe.balance;
  const int64_t experts = input.config.moe.experts;
  const int64_t length = input.rows.size(1) - 1;
  const int64_t tokens = routing.normalised.size(0);
  const auto share = [&](int64_t part) { return static_cast<double>(part) / static_cast<double>(tokens); };

  at::Tensor by_micro_step = at::zeros({}, at::kDouble);
  at::Tensor by_step_so_far = at::zeros({}, at::kDouble);
  at::Tensor so_far = at::zeros({experts}, at::kDouble);
  int64_t begin = 0;
  for (const int64_t sequences : input.micro_steps) {
    const int64_t end = begin + sequences * length;
    const at::Tensor loads = loads_of(routing, begin, end, experts);
    so_far = so_far + loads;
    by_micro_step = by_micro_step + share(end - begin) * switch_loss(routing, begin, end, loads);
    by_step_so_far = by_step_so_far + share(end - begin) * switch_loss(routing, begin, end, so_far);
    begin = end;
  }
  at::Tensor by_sequence = at::zeros({}, at::kDouble);
  for (int64_t first = 0; balance.sequence_loss > 0 && first < tokens; first += length) {
    by_sequence =
        by_sequence + share(length) * switch_loss(routing, first, first + length, loads_of(routing, first, first + length, experts));
  }
  const at::Tensor z = routing.z.mean();
  const at::Tensor scaled =
      balance.switch_loss * by_micro_step + balance.step_loss * by_step_so_far + balance.sequence_loss * by_sequence + balance.z_loss * z;
  step.gates.push_back(routing.gates.detach());
  step.loads.push_back(so_far);
  step.switch_loss.push_back(by_micro_step.item<double>());
  step.z_loss.push_back(z.item<double>());
  step.scaled_loss.push_back(scaled.item<double>());
  step.confidence.push_back(routing.gates.detach().amax(1).mean().item<double>());
  step.shortfall.push_back(routing.shortfall);
  return scaled;
}

}  // namespace

ReferenceStep reference_step(const ReferenceInput& given) {
  ReferenceInput input = given;
  for (auto& [name, weight] : input.weights) weight = weight.to(at::kDouble).detach().clone().requires_grad_(true);
  const Weights& weights = input.weights;
  const ModelConfig& config = input.config;
  const int64_t length = input.rows.size(1) - 1;
  const at::Tensor targets = input.rows.narrow(1, 1, length).reshape({-1, 1});
  at::Tensor counts = at::ones({targets.size(0)}, at::kDouble);               // whether a token's loss does
  at::Tensor documents = at::zeros({input.rows.size(0), length}, at::kLong);  // the number of each token's in its row
  if (input.begins_document.defined()) {
    counts = 1 - input.begins_document.narrow(1, 1, length).reshape({-1}).to(at::kDouble);
    documents = input.begins_document.narrow(1, 0, length).to(at::kLong).cumsum(1);
  }
  ReferenceStep step;

  at::Tensor hidden = weights.at("embedding.weight").index({input.rows.narrow(1, 0, length)});  // [G, S, D]
  at::Tensor balance = at::zeros({}, at::kDouble);
  int64_t moe_layer = 0;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string name = concat("layers.", layer);
    hidden = hidden + reference_attention(reference_norm(hidden, weights.at(name + ".attention_norm.weight"), config.norm_epsilon), weights,
                                          name + ".attention", config, documents, step.largest_score);
    const at::Tensor tokens =
        reference_norm(hidden, weights.at(name + ".feed_forward_norm.weight"), config.norm_epsilon).reshape({-1, config.width});
    if (!config.is_moe_layer(layer)) {
      hidden = hidden + dense_network(weights, name + ".feed_forward")(tokens).view_as(hidden);
      continue;
    }
    const ReferenceRouting routing =
        reference_router(input, name + ".moe.router", tokens, input.biases[static_cast<size_t>(moe_layer)], input.experts[moe_layer]);
    hidden = hidden + experts_output(tokens, routing, weights, name + ".moe", config.moe).view_as(hidden);
    balance = balance + balance_losses(routing, input, step);
    ++moe_layer;
  }
  hidden = reference_norm(hidden, weights.at("final_norm.weight"), config.norm_epsilon);

  const at::Tensor head = weights.at(config.tie_embeddings ? "embedding.weight" : "head.weight");
  const at::Tensor logits = hidden.reshape({-1, config.width}).matmul(head.t());
  const at::Tensor largest = logits.detach().amax(-1, true);
  const at::Tensor token_losses =
      (largest + at::log(at::exp(logits - largest).sum(-1, true)) - logits.gather(1, targets)).squeeze(1) * counts;
  const at::Tensor loss = token_losses.sum() / counts.sum().clamp_min(1);
  (loss + balance).backward();

  step.loss = loss.item<double>();
  step.token_losses = token_losses.detach();
  step.logits = logits.detach();
  for (const auto& [name, weight] : weights) step.gradients[name] = weight.grad().defined() ? weight.grad() : at::zeros_like(weight);
  return step;
}

}  // namespace pimoe
