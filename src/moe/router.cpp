#include "moe/router.h"

#include "base/errors.h"
#include "base/random.h"
#include "base/text.h"
#include "moe/balance.h"
#include "moe/capacity.h"
#include "moe/log_sum_softmax.h"
#include "moe/routing_file.h"
#include "moe/weights.h"
#include "ops/keyed_noise.h"
#include "ops/softmax_top_k.h"
#include "ops/top_k.h"
#include "ops/wide_linear.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <limits>
#include <tuple>

namespace pimoe {
namespace {

/// Sigmoids of very low logits underflow to 0, all of a token's too.
constexpr double kTiny = 1e-20;

/// In at least float32, whatever the tokens are.
at::Tensor wide_product(const at::Tensor& tokens, const Matrix& matrix) {
  if (matrix.is_quantized()) return matrix.multiply(tokens, at_least_float32(tokens.scalar_type()));
  matrix.tell(tokens);
  return wide_linear(tokens, matrix.value());
}

/// A sequence that begins with one token twice has two equal scores, but for rounding, which differs with the shape of the products and so
/// with the layout. Without a float64's last bits the two are equal again, and the lower position has it.
at::Tensor without_last_bits(const at::Tensor& scores) {
  if (scores.scalar_type() != at::kDouble) return scores;  // no bits to spare, and layouts agree in float64 alone
  return scores.contiguous().view(at::kLong).bitwise_and(~((int64_t{1} << 21) - 1)).view(at::kDouble);
}

/// Whether softmax, choice and gates are one operation, at a temperature of 1.
bool chooses_at_once(const RouterConfig& router) {
  return router.kind == RouterKind::kSoftmax && !router.by_logits() && (router.groups == 1 || router.group_choices == router.groups);
}

}  // namespace

/// What the score function made of a batch.
struct Router::Scores {
  at::Tensor tempered;    ///< [T, E]
  at::Tensor scores;      ///< [T, E] softmax or sigmoid of the tempered logits
  at::Tensor normalised;  ///< [T, E] each token's sum to 1
  at::Tensor log_sum;     ///< [T] logsumexp of the logits, before the temperature
};

Router::Router(ParameterList& parameters, const std::string& name, const MoeConfig& config, int64_t width, int64_t vocabulary,
               at::ScalarType compute_dtype, c10::Device device, double initial_deviation, const QuantizationConfig& quantization)
    : name_(name), config_(config), temperature_(config.router.temperature) {
  const RouterConfig& router = config.router;
  const at::ScalarType dtype = at_least_float32(compute_dtype);
  if (router.projection > 0) {
    projection_ = Matrix(parameters, name + ".projection.weight", Box::whole({router.projection, width}), Group::kDense, dtype,
                         initial_deviation, quantization);
  }
  weight_ = Matrix(parameters, name + ".weight", Box::whole({config.experts, router.projection > 0 ? router.projection : width}),
                   Group::kDense, dtype, initial_deviation, quantization);
  if (router.linear_bias) {
    logit_bias_ = &parameters.declare({.name = name + ".logit_bias",
                                       .box = Box::whole({config.experts}),
                                       .copies = Group::kDense,
                                       .dtype = dtype,
                                       .decay = false,
                                       .initializer = {Initializer::Kind::kFirstElement, router.initial_skew},
                                       .value = {}});
  }
  bias_ = at::zeros({config.experts}, at::TensorOptions().dtype(dtype).device(device));
  if (router.kind == RouterKind::kHash) {
    at::Tensor first = at::empty({vocabulary}, at::kInt);
    const uint64_t key = named_key(0, name + ".hash");  // not of the run's seed: a checkpoint's model must not change with it
    for (int64_t id = 0; id < vocabulary; ++id) {
      first.mutable_data_ptr<int32_t>()[id] =
          static_cast<int32_t>(random_bits(key, static_cast<uint64_t>(id)) % static_cast<uint64_t>(config.experts));
    }
    hashed_ = first.to(device);
  }
}

at::Tensor Router::jittered(const at::Tensor& tokens, const BatchContext& context) const {
  if (config_.router.jitter == 0 || !context.training) return tokens;
  const at::Tensor input = tokens.to(at_least_float32(tokens.scalar_type()));
  const uint64_t key = named_key(context.seed, concat(name_, ".jitter.", context.step));
  const auto first = static_cast<uint64_t>(context.first_token * input.size(1));
  return input * keyed_noise(key, first, config_.router.jitter, input.sizes(), input.options().requires_grad(false));
}

at::Tensor Router::logits_of(const at::Tensor& tokens, const BatchContext& context) const {
  at::Tensor input = jittered(tokens, context);
  if (projection_.exists()) input = wide_product(input, projection_);
  const at::Tensor logits = wide_product(input, weight_);
  return logit_bias_ ? logits + logit_bias_->value : logits;
}

Router::Scores Router::score(const at::Tensor& logits) const {
  Scores result;
  result.tempered = temperature_ == 1.0 ? logits : logits / temperature_;
  if (config_.router.kind != RouterKind::kSigmoid && temperature_ == 1.0) {
    std::tie(result.scores, result.log_sum) = log_sum_softmax(logits);
    result.normalised = result.scores;
    return result;
  }
  result.log_sum = at::logsumexp(logits, -1);
  if (config_.router.kind == RouterKind::kSigmoid) {
    result.scores = at::sigmoid(result.tempered);
    result.normalised = result.scores / result.scores.sum(-1, true).clamp_min(kTiny);
  } else {
    result.scores = result.normalised = at::softmax(result.tempered, -1);
  }
  return result;
}

at::Tensor Router::limited_to_groups(const at::Tensor& selection) const {
  const RouterConfig& router = config_.router;
  if (router.groups == 1 || router.group_choices == router.groups) return selection;
  const int64_t tokens = selection.size(0);
  const int64_t group = config_.experts / router.groups;
  const int64_t best = router.group_score == GroupScore::kMax ? 1
                       : router.group_top > 0                 ? router.group_top
                                                              : std::clamp<int64_t>(config_.choices / router.group_choices, 1, group);
  const at::Tensor by_group = selection.view({tokens * router.groups, group});
  const at::Tensor group_scores = by_group.gather(1, top_k(by_group, best).to(at::kLong)).sum(1).view({tokens, router.groups});
  at::Tensor stays = at::zeros({tokens, router.groups}, selection.options().dtype(at::kBool));
  stays.scatter_(1, top_k(group_scores, router.group_choices).to(at::kLong), true);
  const at::Tensor mask = stays.unsqueeze(2).expand({tokens, router.groups, group}).reshape({tokens, config_.experts});
  return selection.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
}

at::Tensor Router::choose_by_expert(const at::Tensor& scores, const BatchContext& context) const {
  const int64_t tokens = scores.size(0);
  const int64_t experts = config_.experts;
  const int64_t length = context.sequence_length;
  const int64_t sequences = tokens / length;
  const at::Tensor ids = at::arange(experts, scores.options().dtype(at::kInt).requires_grad(false)).expand({tokens, experts});
  if (sequences == 0) return ids.contiguous();
  at::Tensor wanted = without_last_bits(scores.detach());
  if (context.counted.defined()) {
    wanted = wanted.masked_fill(context.counted.logical_not().unsqueeze(1), -std::numeric_limits<double>::infinity());
  }
  const int64_t each = tokens_of_choosing_expert(config_, length);
  const at::Tensor columns = wanted.view({sequences, length, experts}).transpose(1, 2).contiguous().view({sequences * experts, length});
  at::Tensor taken = at::zeros({sequences * experts, length}, scores.options().dtype(at::kBool).requires_grad(false));
  taken.scatter_(1, top_k(columns, each).to(at::kLong), true);
  at::Tensor mask = taken.view({sequences, experts, length}).transpose(1, 2).reshape({tokens, experts});
  if (context.counted.defined()) mask = mask.logical_and(context.counted.unsqueeze(1));  // a short sequence fills no capacity with padding
  return at::where(mask, ids, at::full_like(ids, -1)).contiguous();
}

Routing Router::route(const at::Tensor& tokens, const BatchContext& context, const at::Tensor& experts) const {
  const RouterConfig& router = config_.router;
  if (!config_.router_traits().has_scores) return route_without_scores(tokens, context);
  const at::Tensor logits = logits_of(tokens, context);
  Routing routing;
  at::Tensor normalised, log_sum;
  if (chooses_at_once(router) && temperature_ == 1.0 && context.replay == nullptr) {
    const SoftmaxTopK made =
        softmax_top_k(logits.contiguous(),
                      {.bias = bias_, .choices = config_.choices, .renormalize = router.renormalize, .tiny = kTiny, .chosen = experts});
    routing.experts = experts.defined() ? experts : made.chosen;
    routing.weights = made.gates;
    normalised = made.scores;
    log_sum = made.log_sum;
  } else {
    const Scores scores = score(logits);
    routing = chosen_by(scores, context, experts);
    normalised = scores.normalised;
    log_sum = scores.log_sum;
  }
  if (router.route_scale != 1.0) routing.weights = routing.weights * router.route_scale;

  static_cast<BalanceSums&>(routing) = balance_sums(normalised, log_sum, routing.experts, context, config_.balance);
  routing.confidence_sum = sum_of_counted(std::get<0>(routing.weights.detach().max(-1)), context.counted);
  return routing;
}

Routing Router::chosen_by(const Scores& s, const BatchContext& context, const at::Tensor& experts) const {
  const RouterConfig& router = config_.router;
  const bool by_expert = config_.router_traits().by_expert;
  const bool by_logits = router.by_logits();
  Routing routing;
  if (experts.defined()) {
    routing.experts = experts;
  } else if (by_expert) {
    routing.experts = choose_by_expert(s.scores, context);
  } else {
    const at::Tensor selection = (by_logits ? s.tempered : s.scores).detach() + bias_;
    routing.experts = top_k(limited_to_groups(selection), config_.choices);
  }

  if (!experts.defined()) routing.experts = replayed(routing.experts, context);
  const at::Tensor chosen = routing.experts.to(at::kLong);
  if (by_logits) {
    routing.weights = at::softmax(s.tempered.gather(1, chosen), -1);
  } else {
    routing.weights = s.scores.gather(1, by_expert ? chosen.clamp_min(0) : chosen);
    if (by_expert) {
      routing.weights = routing.weights * (chosen >= 0).to(routing.weights.dtype());
    } else if (router.renormalize) {
      routing.weights = routing.weights / routing.weights.sum(-1, true).clamp_min(kTiny);
    }
  }
  return routing;
}

at::Tensor Router::replayed(const at::Tensor& experts, const BatchContext& context) const {
  return context.replay ? context.replay->apply(name_, context.step, context.first_token, config_.experts, context.token_ids, experts)
                        : experts;
}

Routing Router::route_without_scores(const at::Tensor& tokens, const BatchContext& context) const {
  const int64_t count = tokens.size(0);
  const int64_t choices = config_.choices;
  const auto integers = bias_.options().dtype(at::kInt);
  Routing routing;
  if (config_.router.kind == RouterKind::kHash) {
    if (!context.token_ids.defined()) throw ShapeError(name_ + ": the hash router needs BatchContext::token_ids");
    const at::Tensor first = hashed_.index_select(0, context.token_ids.reshape({-1})).unsqueeze(1);
    routing.experts = (first + at::arange(choices, integers)).remainder(config_.experts).to(at::kInt);
  } else {
    const at::Tensor slots = at::arange(count * choices, integers.dtype(at::kLong)) + context.first_token * choices;
    routing.experts = slots.remainder(config_.experts).to(at::kInt).view({count, choices});
  }
  routing.experts = replayed(routing.experts, context);
  routing.weights = at::full({count, choices}, config_.router.route_scale / static_cast<double>(choices), bias_.options());
  const at::Tensor flat = at::full({count, config_.experts}, 1.0 / static_cast<double>(config_.experts), bias_.options());
  static_cast<BalanceSums&>(routing) = balance_sums(flat, /*log_sum=*/{}, routing.experts, context, config_.balance);
  routing.confidence_sum = sum_of_counted(std::get<0>(routing.weights.max(-1)), context.counted);
  return routing;
}

RouterKept kept_by_router(const MoeConfig& config, int64_t tokens, int64_t width, int64_t sequence_length, ElementBytes bytes) {
  const RouterConfig& router = config.router;
  const bool by_expert = config.router_traits().by_expert;
  const bool by_logits = router.by_logits();
  const int64_t gates = tokens * config.slots_per_token();
  const int64_t scores = tokens * config.experts;
  constexpr int64_t kLong = 8;
  RouterKept kept;
  kept.decision = gates * (bytes.wide + static_cast<int64_t>(sizeof(int32_t)));
  if (!config.router_traits().has_scores) return kept;
  kept.gates_learn = true;

  // What the (first) linear map keeps: noise and product, or the tokens as they are.
  if (router.jitter > 0) {
    kept.scores += 2 * tokens * width * bytes.wide;
  } else {
    kept.tokens = true;
  }
  int64_t numbers = tokens * router.projection;
  numbers += scores;                                               // softmax or sigmoid
  if (router.kind == RouterKind::kSigmoid) numbers += 2 * tokens;  // a token's sum, before and after it is bounded
  const bool tempered = router.temperature != 1.0 || (config.controlled() && config.adaptive.temperature_max > 1.0);
  if (router.kind == RouterKind::kSigmoid || tempered) numbers += scores;  // logits, of the z-loss; log_sum_softmax needs none
  if (by_logits && tempered) numbers += scores;
  if (!chooses_at_once(router) || tempered || !router.replay.empty()) {
    kept.scores += gates * kLong;  // which scores were taken
    if (by_logits && router.route_scale != 1.0) numbers += gates;
    if (by_expert) numbers += gates;  // what stays of them
    if (!by_logits && !by_expert && router.renormalize) numbers += gates + 2 * tokens;
  }
  numbers += numbers_kept_by_balance_sums(config.balance, tokens, sequence_length, config.experts);
  kept.scores += numbers * bytes.wide;
  return kept;
}

}  // namespace pimoe
