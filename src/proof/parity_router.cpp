#include "proof/parity_router.h"

#include "base/random.h"
#include "base/text.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace pimoe {
namespace {

using Numbers = std::vector<double>;
constexpr double kNever = -std::numeric_limits<double>::infinity();

Numbers numbers(const at::Tensor& row) {
  const at::Tensor values = row.detach().contiguous();
  const double* begin = values.const_data_ptr<double>();
  return {begin, begin + values.numel()};
}

/// Indices from the largest value down; of equals the lower index first.
std::vector<int64_t> falling_order(const Numbers& values) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return values[a] > values[b]; });
  return order;
}

/// How much the taken values miss of the best as many, over the largest.
double missing(const Numbers& values, const std::vector<int64_t>& taken) {
  const std::vector<int64_t> best = falling_order(values);
  double least = std::numeric_limits<double>::infinity();
  for (const int64_t index : taken) least = std::min(least, values[index]);
  const double gap = values[best[taken.size() - 1]] - least;
  double largest = 0.0;
  for (const double value : values) largest = value == kNever ? largest : std::max(largest, std::abs(value));
  return gap <= 0 ? 0.0 : gap / std::max(largest, 1e-300);
}

/// Leaves the best groups, exchanging those at the margin for groups that were taken; what that misses goes to `shortfall`.
void limit_to_groups(Numbers& wanted, const std::vector<int64_t>& taken, const MoeConfig& config, double& shortfall) {
  const RouterConfig& router = config.router;
  const int64_t size = config.experts / router.groups;
  const int64_t best = router.group_score == GroupScore::kMax ? 1
                       : router.group_top > 0                 ? router.group_top
                                                              : std::clamp<int64_t>(config.choices / router.group_choices, 1, size);
  Numbers scores;
  for (int64_t group = 0; group < router.groups; ++group) {
    Numbers inside(wanted.begin() + group * size, wanted.begin() + (group + 1) * size);
    std::sort(inside.rbegin(), inside.rend());
    scores.push_back(std::accumulate(inside.begin(), inside.begin() + best, 0.0));
  }
  std::vector<int64_t> groups;
  for (const int64_t expert : taken) {
    if (std::find(groups.begin(), groups.end(), expert / size) == groups.end()) groups.push_back(expert / size);
  }
  if (static_cast<int64_t>(groups.size()) > router.group_choices) shortfall = std::numeric_limits<double>::infinity();
  for (const int64_t group : falling_order(scores)) {
    if (static_cast<int64_t>(groups.size()) >= router.group_choices) break;
    if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
  }
  shortfall = std::max(shortfall, missing(scores, groups));
  for (int64_t expert = 0; expert < config.experts; ++expert) {
    if (std::find(groups.begin(), groups.end(), expert / size) == groups.end()) wanted[expert] = kNever;
  }
}

/// Each token chose its experts.
double judge_tokens(const at::Tensor& selection, const at::Tensor& experts, const MoeConfig& config) {
  double shortfall = 0.0;
  for (int64_t token = 0; token < selection.size(0); ++token) {
    Numbers wanted = numbers(selection[token]);
    std::vector<int64_t> taken;
    for (int64_t choice = 0; choice < config.choices; ++choice) taken.push_back(experts[token][choice].item<int64_t>());
    if (config.router.groups > 1) limit_to_groups(wanted, taken, config, shortfall);
    shortfall = std::max(shortfall, missing(wanted, taken));
  }
  return shortfall;
}

/// Each expert chose its tokens of every sequence.
double judge_experts(const at::Tensor& scores, const at::Tensor& experts, const MoeConfig& config, int64_t length) {
  const int64_t each = std::min(length, (config.choices * length + config.experts - 1) / config.experts);
  double shortfall = 0.0;
  for (int64_t begin = 0; begin < scores.size(0); begin += length) {
    for (int64_t expert = 0; expert < config.experts; ++expert) {
      const Numbers column = numbers(scores.narrow(0, begin, length).select(1, expert));
      const at::Tensor uses = (experts.narrow(0, begin, length) == expert).any(1);
      std::vector<int64_t> taken;
      for (int64_t position = 0; position < length; ++position) {
        if (uses[position].item<bool>()) taken.push_back(position);
      }
      const bool whole = static_cast<int64_t>(taken.size()) == each;
      shortfall = std::max(shortfall, whole ? missing(column, taken) : std::numeric_limits<double>::infinity());
    }
  }
  return shortfall;
}

/// Hash and uniform: who gets a token is known beforehand.
ReferenceRouting without_scores(const ReferenceInput& input, const std::string& name, int64_t tokens, const at::Tensor& experts) {
  const MoeConfig& config = input.config.moe;
  const int64_t length = input.rows.size(1) - 1;
  const uint64_t key = named_key(0, name + ".hash");
  ReferenceRouting routing;
  routing.experts = experts;
  for (int64_t token = 0; token < tokens; ++token) {
    for (int64_t choice = 0; choice < config.choices; ++choice) {
      int64_t expected = token * config.choices + choice;
      if (config.router.kind == RouterKind::kHash) {
        const int64_t id = input.rows[token / length][token % length].item<int64_t>();
        expected = static_cast<int64_t>(random_bits(key, static_cast<uint64_t>(id)) % static_cast<uint64_t>(config.experts)) + choice;
      }
      if (experts[token][choice].item<int64_t>() != expected % config.experts) routing.shortfall = 1.0;
    }
  }
  routing.gates = at::full({tokens, config.choices}, config.router.route_scale / static_cast<double>(config.choices), at::kDouble);
  routing.normalised = at::full({tokens, config.experts}, 1.0 / static_cast<double>(config.experts), at::kDouble);
  routing.z = at::zeros({tokens}, at::kDouble);
  return routing;
}

at::Tensor jittered(const ReferenceInput& input, const std::string& name, const at::Tensor& tokens) {
  const double amplitude = input.config.moe.router.jitter;
  if (amplitude == 0) return tokens;
  const uint64_t key = named_key(input.seed, concat(name, ".jitter.", input.step));
  const at::Tensor factors = at::empty(tokens.sizes(), at::kDouble);
  for (int64_t index = 0; index < factors.numel(); ++index) {
    factors.mutable_data_ptr<double>()[index] = 1.0 + amplitude * (2.0 * random_uniform(key, static_cast<uint64_t>(index)) - 1.0);
  }
  return tokens * factors;
}

}  // namespace

ReferenceRouting reference_router(const ReferenceInput& input, const std::string& name, const at::Tensor& tokens, const at::Tensor& bias,
                                  const at::Tensor& experts) {
  const MoeConfig& config = input.config.moe;
  const RouterConfig& router = config.router;
  if (router.kind == RouterKind::kHash || router.kind == RouterKind::kUniform) {
    return without_scores(input, name, tokens.size(0), experts);
  }
  at::Tensor scored = jittered(input, name, tokens);
  if (router.projection > 0) scored = scored.matmul(input.weights.at(name + ".projection.weight").t());
  at::Tensor logits = scored.matmul(input.weights.at(name + ".weight").t());
  if (router.linear_bias) logits = logits + input.weights.at(name + ".logit_bias");

  const at::Tensor x = logits / router.temperature;
  const bool sigmoid = router.kind == RouterKind::kSigmoid;
  const bool by_expert = router.kind == RouterKind::kExpertChoice;
  const bool by_logits = router.kind == RouterKind::kSoftmax && !router.pre_softmax;
  const at::Tensor exponentials = at::exp(x - x.detach().amax(-1, true));
  const at::Tensor scores = sigmoid ? at::sigmoid(x) : exponentials / exponentials.sum(-1, true);

  ReferenceRouting routing;
  routing.experts = experts;
  routing.normalised = scores / scores.sum(-1, true);
  const at::Tensor largest = logits.detach().amax(-1, true);
  const at::Tensor lse = largest.squeeze(-1) + at::log(at::exp(logits - largest).sum(-1));
  routing.z = lse * lse;
  routing.shortfall = by_expert ? judge_experts(scores, experts, config, input.rows.size(1) - 1)
                                : judge_tokens((by_logits ? x : scores) + bias, experts, config);

  const at::Tensor chosen = (by_logits ? exponentials : scores).gather(1, experts.clamp_min(0));
  if (by_expert) {
    routing.gates = chosen * (experts >= 0).to(at::kDouble);
  } else if (by_logits || router.renormalize) {
    routing.gates = chosen / chosen.sum(-1, true);
  } else {
    routing.gates = chosen;
  }
  routing.gates = routing.gates * router.route_scale;
  return routing;
}

}  // namespace pimoe
