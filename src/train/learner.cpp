#include "train/learner.h"

#include "base/errors.h"
#include "base/text.h"
#include "moe/balance.h"
#include "ops/trace_range.h"
#include "train/router_state.h"

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

/// Where adaptive control begins, and what holds without it.
AdaptiveSettings configured_balancing(const MoeConfig& config) {
  return {.bias_rate = {config.balance.bias_rate}, .switch_loss = config.balance.switch_loss, .temperature = config.router.temperature};
}

MoeLayers layers_with_experts(const ModelConfig& config) {
  return {
      .count = config.moe_layers(), .experts = config.moe.experts, .first = config.moe.first_dense_layers, .choices = config.moe.choices};
}

}  // namespace

Learner::Learner(const TrainConfig& config, at::ScalarType dtype, const LossScaler& scaler, const ProcessMesh& mesh)
    : config_(config),
      mesh_(mesh),
      model_(config.model, dtype, mesh),
      moe_layers_(model_.moe_layers()),
      adaptive_(config.model.moe.adaptive, configured_balancing(config.model.moe), layers_with_experts(config.model)),
      watch_(config.model.moe.adaptive.window, config.model.moe.adaptive.collapse_entropy, layers_with_experts(config.model)),
      spikes_(config.train.spikes),
      buckets_(model_.parameters(), mesh, ParameterBuckets::kBucketBytes, /*trained=*/true),
      optimizer_(buckets_, config.optimizer, mesh),
      reducer_(buckets_, mesh),
      loss_scaler_(dtype == at::kHalf ? scaler : LossScaler()) {
  if (config_.train.cuda_graphs != CudaGraphs::kOff) {
    const bool asked = config_.train.cuda_graphs == CudaGraphs::kOn;
    const std::string obstacle = StepGraph::obstacle(model_, mesh);
    if (asked && !obstacle.empty()) {
      throw ConfigError(concat("train.cuda_graphs is on, but ", obstacle, ": auto records steps where that is possible"));
    }
    if (obstacle.empty() && (asked || StepGraph::pays(config_, mesh))) graph_ = std::make_unique<StepGraph>(model_, reducer_, mesh);
  }
  if (const auto& recorded = config_.model.moe.router.replay; !recorded.empty()) {
    replay_.emplace(recorded);
    replay_->require_fits(config_.model.router_names(), config_.model.moe);
  }
}

StepTerms Learner::begin_step(int64_t step_tokens, std::optional<int64_t> step_targets) {
  StepTerms terms{.seed = static_cast<uint64_t>(config_.run.seed),
                  .step = step_,
                  .step_tokens = static_cast<double>(step_tokens),
                  .step_targets = static_cast<double>(std::max<int64_t>(1, step_targets.value_or(step_tokens))),
                  .loss_scale = loss_scaler_.scale,
                  .recompute = config_.train.recompute,
                  .balance = config_.model.moe.balance,
                  .replay = replay()};
  terms.balance.switch_loss = balancing().switch_loss;
  terms.temperature = balancing().temperature;
  use_temperature();
  return terms;
}

std::vector<StatePiece> Learner::state_pieces() {
  std::vector<StatePiece> pieces = optimizer_.state();
  for (MoELayer* layer : moe_layers_) pieces.push_back(router_bias_state(*layer));
  return pieces;
}

void Learner::use_temperature() {
  for (MoELayer* layer : moe_layers_) layer->router().set_temperature(balancing().temperature);
}

StepSums Learner::accumulate_gradients(const std::vector<MicroBatch>& batches, const StepTerms& terms, const PredictionObserver& seen) {
  if (graph_) return graph_->accumulate_gradients(batches, terms, seen);
  return pimoe::accumulate_gradients(model_, reducer_, mesh_, batches, terms, seen);
}

StepRecord Learner::update(const StepSums& sums) {
  const TracedPhase phase("optimizer");
  StepRecord record;
  record.gradient_norm = optimizer_.gradient_norm(loss_scaler_.scale);
  record.learning_rate = learning_rate_at(step_, config_.train.steps, config_.optimizer);
  record.loss_scale = loss_scaler_.scale;
  std::vector<at::Tensor> biases;
  for (MoELayer* layer : moe_layers_) biases.push_back(layer->router().bias());
  sums.finish(record, biases);
  record.outcome = judge(record);
  if (record.outcome == StepOutcome::kTaken) {
    optimizer_.step(record.learning_rate, record.gradient_norm, loss_scaler_.scale);
    update_biases(sums.load());
  }
  record.step = ++step_;
  adapt(record);
  if (graph_) {
    if (std::string trouble = graph_->take_trouble(); !trouble.empty()) record.alarms.push_back(std::move(trouble));
  }
  loss_scaler_.update(record.outcome != StepOutcome::kNotFinite);
  return record;
}

StepOutcome Learner::judge(StepRecord& record) {
  if (!std::isfinite(record.loss) || !std::isfinite(record.gradient_norm)) return StepOutcome::kNotFinite;
  const std::string spike = spikes_.spike(record.loss, record.gradient_norm);
  const bool skips = !spike.empty() && config_.train.spikes.action == OnSpike::kSkip;
  if (!spike.empty()) record.alarms.push_back(concat("step ", step_ + 1, ": ", spike, skips ? ": skipped" : ""));
  if (skips) return StepOutcome::kSpike;
  spikes_.take(record.loss, record.gradient_norm);
  return StepOutcome::kTaken;
}

void Learner::update_biases(const at::Tensor& load) {
  if (!config_.model.moe.steerable()) return;
  const bool adaptive = config_.model.moe.controlled();
  const double scheduled = scheduled_bias_rate(config_.model.moe.balance, step_, config_.train.steps);
  const BiasLaw law = adaptive ? AdaptiveControl::kBiasLaw : config_.model.moe.balance.bias_law;
  for (size_t layer = 0; layer < moe_layers_.size(); ++layer) {
    const double rate = adaptive ? balancing().bias_rate[layer] : scheduled;
    if (rate > 0) update_bias(moe_layers_[layer]->router().bias(), load[static_cast<int64_t>(layer)], rate, law);
  }
}

void Learner::adapt(StepRecord& record) {
  if (!record.routing) return;
  const AdaptiveSettings& used = balancing();
  AdaptiveRecord adaptive{used.bias_rate, used.switch_loss, used.temperature, {}};
  // A skipped step changed nothing, and its counts may come from weights that are not finite.
  if (record.outcome == StepOutcome::kTaken) {
    for (const AdaptiveMove& move : adaptive_.observe(step_, record.routing->load)) adaptive.moves.push_back(move.text);
    for (const RouterAlarm& alarm : watch_.observe(step_, record.routing->load)) record.alarms.push_back(alarm.text);
  }
  for (const RouterAlarm& alarm : watch_.observe_nonfinite(step_, record.routing->nonfinite_slots)) record.alarms.push_back(alarm.text);
  if (config_.model.moe.controlled()) record.adaptive = std::move(adaptive);
}

}  // namespace pimoe
