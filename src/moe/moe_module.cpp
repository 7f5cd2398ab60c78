#include "moe/moe_module.h"

#include "base/errors.h"
#include "base/text.h"
#include "moe/balance.h"
#include "parallel/parameter_buckets.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace pimoe {
namespace {

const MoeConfig& validated(const MoeConfig& config, int64_t width) {
  Violations violations;
  config.validate("moe", violations);
  if (config.experts == 0) violations.add("moe.experts", "(0) must be at least 1 in a layer of experts");
  if (width < 1) violations.add("width", concat("(", width, ") must be at least 1"));
  if (config.adaptive.enabled) violations.add("moe.adaptive.enabled", "is the trainer's: a layer of its own has no steps to look at");
  if (config.balance.bias_schedule != BiasSchedule::kConstant) {
    violations.add("moe.balance.bias_schedule", "must be constant: a layer of its own does not know how many steps there will be");
  }
  if (!config.router.replay.empty()) violations.add("moe.router.replay", "is the trainer's: a layer of its own takes its own decisions");
  if (config.router.kind == RouterKind::kHash) {
    violations.add("moe.router.kind", "must not be hash: a layer of its own sees vectors, no token ids");
  }
  refuse(violations, ConfigOrigins());
  return config;
}

}  // namespace

MoeModule::MoeModule(const MoeConfig& config, int64_t width, const ProcessMesh& mesh, at::ScalarType dtype, uint64_t seed,
                     const std::string& name, double deviation)
    : torch::nn::Module(name),
      config_(validated(config, width)),
      width_(width),
      mesh_(mesh),
      seed_(seed),
      layer_(declared_, name, config, width, /*vocabulary=*/1, dtype, {deviation, deviation}, mesh) {
  for (const auto& parameter : declared_) {
    const Piece piece{parameter->name, parameter->box, 0, parameter->box.numel()};
    const at::Tensor values = at::empty(parameter->box.shape, at::kDouble);
    initial_values(*parameter, piece, seed, values.mutable_data_ptr<double>());
    parameter->value = values.to(at::TensorOptions(mesh.device()).dtype(parameter->dtype)).requires_grad_(true);
    std::string registered = parameter->name.substr(name.size() + 1);  // torch allows no dots
    std::replace(registered.begin(), registered.end(), '.', '_');
    register_parameter(registered, parameter->value);
  }
  register_buffer("router_bias", layer_.router().bias());
  load_ = at::zeros({config.experts}, at::TensorOptions(mesh.device()).dtype(at::kLong));
}

MoeModule::Result MoeModule::forward(const at::Tensor& tokens) {
  const bool batched = tokens.defined() && tokens.dim() == 3;
  if (!tokens.defined() || (!batched && tokens.dim() != 2) || tokens.size(-1) != width_) {
    throw ShapeError(concat("MoeModule ", name(), ": tokens must be [T, ", width_, "] or [B, S, ", width_, "], but are ",
                            tokens.defined() ? shape_text(tokens.sizes().vec()) : "undefined"));
  }
  const at::Tensor rows = tokens.reshape({-1, width_}).contiguous();

  const HostCommunicator& control = mesh_.control();
  at::Tensor counts = at::empty({mesh_.size()}, at::kLong);
  control.all_gather(counts, at::tensor({rows.size(0)}, at::kLong));
  BatchContext context(counts.slice(0, 0, mesh_.rank()).sum().item<int64_t>(), counts.max().item<int64_t>());
  context.training = is_training();
  context.seed = seed_;
  context.step = step_;
  context.sequence_length = std::max<int64_t>(1, tokens.size(-2));

  std::optional<RoutingMemo> memo;
  const MoEOutput output = layer_.forward(rows, context, memo);
  const double all_tokens = std::max<double>(1.0, static_cast<double>(counts.sum().item<int64_t>()));
  const BalanceTerms balance = balance_terms({output.record}, config_.balance, all_tokens, {}, mesh_.group(Group::kBatch));
  Result result{output.tokens.reshape(tokens.sizes()), balance.loss * mesh_.size(), balance.load.reshape({config_.experts})};
  if (is_training()) load_ += result.load;
  return result;
}

void MoeModule::average_gradients() {
  for (const auto& parameter : declared_) {
    at::Tensor& gradient = parameter->value.mutable_grad();
    if (!gradient.defined()) gradient = at::zeros_like(parameter->value);
    at::Tensor sum = gradient.to(at_least_float32(parameter->dtype)).contiguous();
    mesh_.group(parameter->copies).all_reduce(sum);
    gradient.copy_(sum.div_(mesh_.size()));
  }
  ++step_;
}

void MoeModule::update_biases() {
  if (config_.balance.bias_rate > 0 && config_.steerable()) {
    update_bias(layer_.router().bias(), load_, config_.balance.bias_rate, config_.balance.bias_law);
  }
  load_.zero_();
}

}  // namespace pimoe
