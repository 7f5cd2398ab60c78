#pragma once

/// What a MoE layer computes, as plainly as it can be said: a loop over tokens and their experts, in float64, under autograd. Shares nothing
/// with the code that it checks but the configuration.

#include "moe/moe_config.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace pimoe {

/// One expert's matrices, whole: up [F, D] or gate and up [2F, D], middle [F, F] each, down [D, F].
struct ReferenceExpert {
  Activation activation = Activation::kSwiglu;
  at::Tensor up;
  std::vector<at::Tensor> middle;
  at::Tensor down;
};

struct ReferenceWeights {
  at::Tensor router;      // [E, D] or [E, projection]
  at::Tensor projection;  // [projection, D], or undefined
  at::Tensor logit_bias;  // [E], or undefined
  std::vector<ReferenceExpert> experts;
  std::vector<ReferenceExpert> shared;    // one or none
  at::Tensor shared_gate;                 // [1, D], or undefined
  std::vector<ReferenceExpert> fallback;  // one or none
};

struct ReferenceOutput {
  at::Tensor tokens;          // [T, D]
  at::Tensor switch_loss;     // E * sum_i f_i P_i over these tokens
  at::Tensor sequence_loss;   // the same in each sequence, averaged over the sequences
  at::Tensor z_loss;          // mean of logsumexp^2
  std::vector<int64_t> load;  // [E] slots before any is dropped
  int64_t dropped = 0;
};

inline at::Tensor reference_expert(const ReferenceExpert& expert, const at::Tensor& token) {
  const auto act = [&](const at::Tensor& x) -> at::Tensor {
    switch (expert.activation) {
      case Activation::kSwiglu:
      case Activation::kSilu: return x / (1 + at::exp(-x));
      case Activation::kGeglu:
      case Activation::kGelu: return 0.5 * x * (1 + at::erf(x / std::sqrt(2.0)));
      case Activation::kRelu: return at::clamp_min(x, 0);
      case Activation::kRelu2: return at::clamp_min(x, 0) * at::clamp_min(x, 0);
      case Activation::kTanh: return at::tanh(x);
    }
    return x;
  };
  at::Tensor hidden = at::mv(expert.up, token);
  if (expert.activation == Activation::kSwiglu || expert.activation == Activation::kGeglu) {
    const int64_t width = expert.down.size(1);
    hidden = act(hidden.slice(0, 0, width)) * hidden.slice(0, width);
  } else {
    hidden = act(hidden);
  }
  for (const at::Tensor& matrix : expert.middle) hidden = act(at::mv(matrix, hidden));
  return at::mv(expert.down, hidden);
}

/// Indices of `values` from the largest down; of equals the lower index first.
inline std::vector<int64_t> falling_order(const std::vector<double>& values) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return values[a] > values[b]; });
  return order;
}

inline std::vector<double> numbers(const at::Tensor& tensor) {
  std::vector<double> values;
  for (int64_t i = 0; i < tensor.numel(); ++i) values.push_back(tensor.detach()[i].item<double>());
  return values;
}

/// @param first_token  of these tokens, among all of the step (uniform router)
inline ReferenceOutput reference_moe(const at::Tensor& tokens, const ReferenceWeights& weights, const at::Tensor& bias,
                                     const MoeConfig& config, int64_t sequence_length = 1, int64_t first_token = 0) {
  const RouterConfig& router = config.router;
  const int64_t count = tokens.size(0);
  const int64_t experts = config.experts;
  const double infinity = std::numeric_limits<double>::infinity();
  struct Slot {
    int64_t token, expert;
    at::Tensor gate;
    bool kept = true;
  };
  std::vector<Slot> slots;
  std::vector<at::Tensor> normalised;  // [E] of each token
  std::vector<at::Tensor> scores;
  ReferenceOutput output;
  output.z_loss = at::zeros({}, at::kDouble);

  // 1. Every token's scores and, where tokens choose, its slots in falling order.
  for (int64_t t = 0; t < count; ++t) {
    if (router.kind == RouterKind::kUniform) {
      for (int64_t k = 0; k < config.choices; ++k) {
        slots.push_back({t, ((first_token + t) * config.choices + k) % experts,
                         at::full({}, router.route_scale / static_cast<double>(config.choices), at::kDouble)});
      }
      normalised.push_back(at::full({experts}, 1.0 / experts, at::kDouble));
      continue;
    }
    const at::Tensor input = weights.projection.defined() ? at::mv(weights.projection, tokens[t]) : tokens[t];
    at::Tensor logits = at::mv(weights.router, input);
    if (weights.logit_bias.defined()) logits = logits + weights.logit_bias;
    const at::Tensor lse = at::log(at::exp(logits).sum());
    output.z_loss = output.z_loss + lse * lse / static_cast<double>(count);
    const at::Tensor x = logits / router.temperature;
    const at::Tensor exponentials = at::exp(x - x.max().detach());
    const bool sigmoid = router.kind == RouterKind::kSigmoid;
    const at::Tensor s = sigmoid ? 1 / (1 + at::exp(-x)) : exponentials / exponentials.sum();
    scores.push_back(s);
    normalised.push_back(s / s.sum());
    if (router.kind == RouterKind::kExpertChoice) continue;

    const bool by_logits = !sigmoid && !router.pre_softmax;
    std::vector<double> wanted = numbers((by_logits ? x : s) + bias);
    if (router.groups > 1) {
      const int64_t size = experts / router.groups;
      std::vector<double> group_scores;
      for (int64_t g = 0; g < router.groups; ++g) {
        std::vector<double> inside(wanted.begin() + g * size, wanted.begin() + (g + 1) * size);
        std::sort(inside.rbegin(), inside.rend());
        const int64_t best = router.group_score == GroupScore::kMax ? 1
                             : router.group_top > 0                 ? router.group_top
                                                                    : std::clamp<int64_t>(config.choices / router.group_choices, 1, size);
        group_scores.push_back(std::accumulate(inside.begin(), inside.begin() + best, 0.0));
      }
      const auto order = falling_order(group_scores);
      for (int64_t rank = router.group_choices; rank < router.groups; ++rank) {
        for (int64_t e = order[rank] * size; e < (order[rank] + 1) * size; ++e) wanted[e] = -infinity;
      }
    }
    const auto order = falling_order(wanted);
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (int64_t k = 0; k < config.choices; ++k) sum = sum + (by_logits ? at::exp(x[order[k]]) : s[order[k]]);
    for (int64_t k = 0; k < config.choices; ++k) {
      at::Tensor gate = by_logits ? at::exp(x[order[k]]) / sum : s[order[k]];
      if (router.renormalize && !by_logits) gate = gate / sum;
      slots.push_back({t, order[k], gate * router.route_scale});
    }
  }
  // ... or, where experts choose, each expert's tokens of each sequence.
  if (router.kind == RouterKind::kExpertChoice) {
    const int64_t each = std::min(sequence_length, (config.choices * sequence_length + experts - 1) / experts);
    std::vector<std::vector<Slot>> of_token(count);
    for (int64_t begin = 0; begin < count; begin += sequence_length) {
      for (int64_t e = 0; e < experts; ++e) {
        std::vector<double> column;
        for (int64_t t = begin; t < begin + sequence_length; ++t) column.push_back(scores[t][e].item<double>());
        const auto order = falling_order(column);
        for (int64_t i = 0; i < each; ++i) {
          const int64_t t = begin + order[i];
          of_token[t].push_back({t, e, scores[t][e] * router.route_scale});
        }
      }
    }
    for (auto& list : of_token) {
      std::sort(list.begin(), list.end(), [](const Slot& a, const Slot& b) { return a.expert < b.expert; });
      slots.insert(slots.end(), list.begin(), list.end());
    }
  }

  // 2. Loads and losses, of what the router chose.
  output.load.assign(experts, 0);
  for (const Slot& slot : slots) ++output.load[slot.expert];
  const auto balance = [&](int64_t begin, int64_t end) {
    at::Tensor mean = at::zeros({experts}, at::kDouble);
    std::vector<double> share(experts, 0.0);
    double total = 0.0;
    for (int64_t t = begin; t < end; ++t) mean = mean + normalised[t] / static_cast<double>(end - begin);
    for (const Slot& slot : slots) {
      if (slot.token < begin || slot.token >= end) continue;
      share[slot.expert] += 1.0;
      total += 1.0;
    }
    return static_cast<double>(experts) * at::dot(at::tensor(share, at::kDouble) / std::max(1.0, total), mean);
  };
  output.switch_loss = balance(0, count);
  output.sequence_loss = at::zeros({}, at::kDouble);
  for (int64_t begin = 0; begin < count; begin += sequence_length) {
    output.sequence_loss = output.sequence_loss +
                           balance(begin, begin + sequence_length) * (static_cast<double>(sequence_length) / static_cast<double>(count));
  }

  // 3. What is over capacity.
  if (config.capacity_factor > 0 && router.kind != RouterKind::kExpertChoice) {
    // The factor as it was meant, in parts of a million: 1.1 has no float64.
    const int64_t millionths = std::llround(config.capacity_factor * 1e6);
    const int64_t capacity = std::max<int64_t>(1, (count * config.choices * millionths + experts * 1'000'000 - 1) / (experts * 1'000'000));
    for (int64_t e = 0; e < experts; ++e) {
      std::vector<size_t> mine;
      for (size_t i = 0; i < slots.size(); ++i) {
        if (slots[i].expert == e) mine.push_back(i);
      }
      if (config.capacity_drop == CapacityDrop::kGate) {
        std::stable_sort(mine.begin(), mine.end(),
                         [&](size_t a, size_t b) { return slots[a].gate.item<double>() > slots[b].gate.item<double>(); });
      }
      for (size_t i = static_cast<size_t>(capacity); i < mine.size(); ++i) {
        slots[mine[i]].kept = false;
        ++output.dropped;
      }
    }
  }

  // 4. What the experts make of it.
  std::vector<at::Tensor> rows;
  for (int64_t t = 0; t < count; ++t) {
    at::Tensor sum = at::zeros({tokens.size(1)}, at::kDouble);
    bool served = false;
    for (const Slot& slot : slots) {
      if (slot.token != t || !slot.kept) continue;
      sum = sum + slot.gate * reference_expert(weights.experts[slot.expert], tokens[t]);
      served = true;
    }
    if (!served && !weights.fallback.empty()) sum = reference_expert(weights.fallback[0], tokens[t]);
    if (!weights.shared.empty()) {
      at::Tensor shared = reference_expert(weights.shared[0], tokens[t]);
      if (weights.shared_gate.defined()) shared = shared / (1 + at::exp(-weights.shared_gate[0].dot(tokens[t])));
      sum = sum + shared;
    }
    rows.push_back(sum);
  }
  output.tokens = rows.empty() ? at::zeros_like(tokens) : at::stack(rows);
  return output;
}

}  // namespace pimoe
