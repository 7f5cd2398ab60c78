#include "train/trainer.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "data/tokenizer.h"
#include "model/flops.h"
#include "moe/balance.h"
#include "parallel/device.h"
#include "parallel/precision.h"
#include "train/gradient_step.h"
#include "train/resume.h"
#include "train/router_state.h"
#include "train/validation.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

constexpr int64_t kMostBadInARow = 10;
constexpr const char* kAdviceAgainstDivergence =
    "What helps: a lower optimizer.learning_rate, a longer optimizer.warmup_steps, a lower optimizer.clip_norm (0 does not clip), "
    "train.precision=bfloat16 in place of float16; or look at the data of these steps. Checkpoints from before are as they were.";

/// As the configuration spells it; libtorch says BFloat16 and Half.
const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return "float64";
    case at::kBFloat16: return "bfloat16";
    case at::kHalf: return "float16";
    default: return "float32";
  }
}

std::map<std::string, at::Tensor> router_biases(const std::vector<MoELayer*>& layers) {
  std::map<std::string, at::Tensor> biases;
  for (MoELayer* layer : layers) biases[layer->router().name() + ".bias"] = layer->router().bias();
  return biases;
}

/// Where adaptive control begins, and what holds without it.
AdaptiveSettings configured_balancing(const MoeConfig& config) {
  return {.bias_rate = {config.balance.bias_rate}, .switch_loss = config.balance.switch_loss, .temperature = config.router.temperature};
}

}  // namespace

at::ScalarType agreed_dtype(Precision precision, const ProcessMesh& mesh) {
  if (precision != Precision::kAuto) return compute_dtype(precision, mesh.device());
  at::Tensor fast = at::tensor({static_cast<int64_t>(has_fast_bfloat16(mesh.device()) ? 1 : 0)}, at::kLong);
  mesh.control().all_reduce(fast, ReduceOp::kMin);
  return fast.item<int64_t>() != 0 ? at::kBFloat16 : at::kFloat;
}

Trainer::Trainer(const TrainConfig& config, const ProcessMesh& mesh, Logger& log, const StopRequest* stop)
    : config_(config),
      mesh_(mesh),
      log_(log),
      stop_(stop),
      model_(config.model, agreed_dtype(config.train.precision, mesh), mesh),
      moe_layers_(model_.moe_layers()),
      adaptive_(config.model.moe.adaptive, configured_balancing(config.model.moe), static_cast<int64_t>(moe_layers_.size()),
                config.model.moe.experts),
      buckets_(model_.parameters(), mesh, ParameterBuckets::kBucketBytes, /*trained=*/true),
      optimizer_(buckets_, config.optimizer, mesh),
      reducer_(buckets_, mesh),
      replicas_(buckets_, optimizer_, router_biases(moe_layers_), mesh),
      checkpoints_(config.run.directory / "checkpoints", config.checkpoint, mesh, log),
      saves_(checkpoints_, config.checkpoint, log, mesh.rank() == 0),
      peak_flops_(peak_flops(mesh.device()) * mesh.size()),
      step_tokens_(config.train.global_batch * config.model.sequence_length) {
  if (model_.dtype() == at::kHalf) loss_scaler_ = LossScaler::for_float16();
  // What is missing is said now, not after hours.
  if (!config_.data.tokenizer.empty()) static_cast<void>(Tokenizer(config_.data.tokenizer));
  const TokenFile corpus(config_.data.train);
  SampleReader(corpus, config_.model.sequence_length, 0, /*shuffle=*/true);
  if (!config_.data.validation.empty()) {
    validation_.emplace(config_.data.validation);
    SampleReader(*validation_, config_.model.sequence_length, 0, /*shuffle=*/false);
  }
  std::vector<std::string> routers;
  for (const MoELayer* layer : moe_layers_) routers.push_back(layer->router().name());
  routing_log_.emplace(config_.log.routing, config_.run.directory / "routing", mesh_.rank(), routers, config_.model.sequence_length);
  if (const auto& recorded = config_.model.moe.router.replay; !recorded.empty()) replay_.emplace(recorded);
  announce();
  resume();
  if (mesh_.rank() == 0) {
    replace_file(config_.run.directory / "config.yaml", to_yaml(config_));
    metrics_ = std::make_unique<MetricsFile>(config_.run.directory / "metrics.jsonl", step_);
  }
}

Trainer::~Trainer() = default;

void Trainer::resume() {
  const std::optional<std::filesystem::path> found = checkpoint_to_resume(config_, checkpoints_, log_);
  if (!found) {
    log_.info(concat("from scratch: drawing the initial weights with seed ", config_.run.seed));
    optimizer_.initialize(static_cast<uint64_t>(config_.run.seed));
    return;
  }
  const TrainConfig before = parse_train_config(read_manifest(*found).config, (*found / "manifest.json").string());
  require_same_model(before, config_, found->string());
  for (const std::string& change : changes_of_data(before, config_)) {
    if (mesh_.rank() == 0) log_.warning(change);
  }
  Snapshot saved = snapshot();
  std::erase_if(saved.numbers, [](const auto& number) { return AdaptiveControl::is_state(number.first); });  // may be missing
  checkpoints_.restore(*found, saved);
  step_ = saved.step;
  tokens_seen_ = saved.counters.at("tokens_seen");
  bad_in_a_row_ = saved.counters.at("skipped_in_a_row");
  start_.next_sample = saved.counters.at("next_sample");
  if (loss_scaler_.dynamic && saved.counters.at("loss_scale_dynamic") != 0) {
    loss_scaler_.scale = saved.numbers.at("loss_scale");
    loss_scaler_.good_steps = saved.counters.at("loss_scale_good_steps");
  }
  if (config_.model.moe.adaptive.enabled && !adaptive_.restore(saved.numbers)) {
    log_.info("adaptive control begins afresh: the checkpoint was written without it");
  }
  optimizer_.set_steps_taken(saved.counters.at("optimizer_steps"));
  optimizer_.publish();
  log_.info(concat("resumed from ", found->string(), ": step ", step_, ", ", grouped(tokens_seen_), " tokens seen"));
}

Snapshot Trainer::snapshot() {
  Snapshot state;
  state.step = step_;
  state.numbers = {{"loss_scale", loss_scaler_.scale}};
  if (config_.model.moe.adaptive.enabled) state.numbers.merge(adaptive_.state());
  state.counters = {{"tokens_seen", tokens_seen_},
                    {"next_sample", data_ ? data_->cursor().next_sample : start_.next_sample},
                    {"optimizer_steps", optimizer_.steps_taken()},
                    {"skipped_in_a_row", bad_in_a_row_},
                    {"loss_scale_dynamic", loss_scaler_.dynamic ? 1 : 0},
                    {"loss_scale_good_steps", loss_scaler_.good_steps}};
  state.config = to_yaml(config_);
  state.pieces = optimizer_.state();
  for (MoELayer* layer : moe_layers_) state.pieces.push_back(router_bias_state(*layer));
  return state;
}

TrainOutcome Trainer::run() {
  if (step_ >= config_.train.steps) {
    log_.info(concat("the run is complete: it has done ", step_, " steps, and train.steps is ", config_.train.steps,
                     ". To train further raise it, as in train.steps=", 2 * std::max<int64_t>(1, step_)));
    return TrainOutcome::kComplete;
  }
  data_ = std::make_unique<DataStream>(
      config_.data.train,
      DataStreamOptions{.sequence_length = config_.model.sequence_length,
                        .vocabulary = config_.model.vocabulary,
                        .global_batch = config_.train.global_batch,
                        .micro_batch = config_.train.micro_batch,
                        .seed = static_cast<uint64_t>(config_.run.seed),
                        .rank = mesh_.group(Group::kBatch).rank(),
                        .ranks = mesh_.group(Group::kBatch).size(),
                        .shuffle = true,
                        .prefetch = true,
                        .pin = [device = mesh_.device()](const at::Tensor& tensor) { return pinned(tensor, device); }},
      start_);
  first_step_ = step_;
  started_ = std::chrono::steady_clock::now();

  while (step_ < config_.train.steps) {
    const auto begun = std::chrono::steady_clock::now();
    const StepSums sums = accumulate_gradients();
    const double gradient_norm = optimizer_.gradient_norm(loss_scaler_.scale);
    const double learning_rate = learning_rate_at(step_, config_.train.steps, config_.optimizer);
    const bool finite = std::isfinite(gradient_norm);
    verify_replicas();
    if (finite) {
      optimizer_.step(learning_rate, gradient_norm, loss_scaler_.scale);
      update_biases(sums.load());
    }
    ++step_;
    if (is_verified(step_ + 1)) replicas_.remember();
    tokens_seen_ += step_tokens_;
    StepRecord record = finish_record(sums, gradient_norm, learning_rate, !finite);
    adapt(record);
    synchronize(mesh_.device());  // the optimizer's work was only enqueued: without this the clock would not see it
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begun;
    add_speed(record, seconds.count());
    loss_scaler_.update(finite);
    report(record);

    const Agreement agreed = agree();
    if (agreed.save_is_over) saves_.collect();
    const bool stopping = agreed.stop;
    const bool last = step_ == config_.train.steps;
    // Checkpoints of a diverging run would only push out good ones; so would those of skip after skip while float16's scale falls. Where
    // gradients alone overflow nothing changes, and a request to stop is met as always; a loss that is not finite says that the weights are
    // spoiled.
    if (is_diverging() && stopping && !loss_is_finite_) break;
    if (is_diverging() && !stopping) continue;
    const bool is_due = last ? config_.checkpoint.at_end : (due(config_.checkpoint.every_steps) || agreed.retry_is_due) && bad_in_a_row_ <= 1;
    if (stopping || is_due) save(stopping || last);
    if (stopping && !last) {
      log_.info(concat(stop_ && stop_->out_of_time() ? concat("run.walltime (", config_.run.walltime, ") is nearly over") : "asked to stop",
                       ": saved step ", step_, "; start the same command again to go on"));
      return TrainOutcome::kStopped;
    }
  }
  saves_.collect();
  if (is_diverging()) {
    throw Error(concat("the run ended diverged at step ", step_, ": loss or gradients of its last ", bad_in_a_row_,
                       bad_in_a_row_ == 1 ? " step" : " steps", " were not finite (loss ", last_record_->loss, "). ",
                       kAdviceAgainstDivergence));
  }
  summarize();
  return TrainOutcome::kComplete;
}

void Trainer::verify_replicas() {
  if (!is_verified(step_ + 1)) return;
  const std::string trouble = replicas_.trouble();
  if (trouble.empty()) return;
  throw Error(concat("memory changed by itself before the update of step ", step_ + 1, ": ", trouble,
                     ". Nothing of it was saved. Start the same command again, without that host if it happens there again: the run goes on "
                     "from its last checkpoint"));
}

void Trainer::save(bool last) {
  if (!optimizer_.weights_are_finite()) {
    throw Error(concat("the run has diverged: after step ", step_, " the weights are not finite (loss ", last_record_->loss,
                       "), and were not saved. ", kAdviceAgainstDivergence));
  }
  saves_.save(snapshot(), last);
}

StepSums Trainer::accumulate_gradients() {
  StepTerms terms{.seed = static_cast<uint64_t>(config_.run.seed),
                  .step = step_,
                  .step_tokens = static_cast<double>(step_tokens_),
                  .loss_scale = loss_scaler_.scale,
                  .recompute = config_.train.recompute,
                  .balance = config_.model.moe.balance};
  terms.balance.switch_loss = balancing().switch_loss;
  for (MoELayer* layer : moe_layers_) layer->router().set_temperature(balancing().temperature);
  terms.replay = replay_ ? &*replay_ : nullptr;
  const auto record_routing = [this](const MicroBatch& batch, const Prediction& prediction) {
    routing_log_->add(step_ + 1, batch, prediction);
  };
  StepSums sums = pimoe::accumulate_gradients(model_, reducer_, mesh_, data_->next_step(), terms, record_routing);
  routing_log_->write();
  return sums;
}

void Trainer::update_biases(const at::Tensor& load) {
  const bool adaptive = config_.model.moe.adaptive.enabled;
  const double scheduled = scheduled_bias_rate(config_.model.moe.balance, step_, config_.train.steps);
  const BiasLaw law = adaptive ? AdaptiveControl::kBiasLaw : config_.model.moe.balance.bias_law;
  for (size_t layer = 0; layer < moe_layers_.size(); ++layer) {
    const double rate = adaptive ? balancing().bias_rate[layer] : scheduled;
    if (rate > 0) update_bias(moe_layers_[layer]->router().bias(), load[static_cast<int64_t>(layer)], rate, law);
  }
}

StepRecord Trainer::finish_record(const StepSums& sums, double gradient_norm, double learning_rate, bool skipped) {
  StepRecord record;
  record.step = step_;
  record.gradient_norm = gradient_norm;
  record.learning_rate = learning_rate;
  record.loss_scale = loss_scaler_.scale;
  record.skipped = skipped;
  record.tokens = tokens_seen_;
  record.memory_bytes = memory_use(mesh_.device()).peak_bytes;
  std::vector<at::Tensor> biases;
  for (MoELayer* layer : moe_layers_) biases.push_back(layer->router().bias());
  sums.finish(record, biases);
  return record;
}

void Trainer::add_speed(StepRecord& record, double seconds) const {
  record.step_seconds = seconds;
  record.tokens_per_second = static_cast<double>(step_tokens_) / seconds;
  if (peak_flops_ > 0) {
    const TokenFlops flops = token_flops(config_.model);
    record.mfu = flops.megatron * record.tokens_per_second / peak_flops_;
    record.mfu_torchtitan = flops.torchtitan * record.tokens_per_second / peak_flops_;
  }
}

void Trainer::adapt(StepRecord& record) {
  if (!record.routing) return;
  const AdaptiveSettings& used = balancing();
  AdaptiveRecord adaptive{used.bias_rate, used.switch_loss, used.temperature, {}};
  // A skipped step changed nothing, and its counts may come from weights that are not finite.
  if (!record.skipped) {
    const AdaptiveControl::Observation seen = adaptive_.observe(step_, record.routing->load);
    for (const AdaptiveMove& move : seen.moves) {
      adaptive.moves.push_back(move.text);
      log_.info(move.text);
    }
    for (const AdaptiveAlarm& alarm : seen.alarms) record.alarms.push_back(alarm.text);
  }
  for (size_t layer = 0; layer < record.routing->nonfinite_slots.size(); ++layer) {
    const double slots = record.routing->nonfinite_slots[layer];
    if (slots == 0) continue;
    record.alarms.push_back(concat("step ", step_, ": layer ", layer, ": the experts' results of ", slots,
                                   " slots are not finite; these tokens ", "went by the shared or fallback network"));
  }
  for (const std::string& alarm : record.alarms) {
    if (mesh_.rank() == 0) log_.warning(alarm);
  }
  if (config_.model.moe.adaptive.enabled) record.adaptive = std::move(adaptive);
}

void Trainer::report(StepRecord& record) {
  loss_is_finite_ = std::isfinite(record.loss);
  bad_in_a_row_ = record.skipped || !loss_is_finite_ ? bad_in_a_row_ + 1 : 0;
  if (bad_in_a_row_ >= kMostBadInARow && is_diverging()) {
    throw Error(concat("the run has diverged: loss or gradients were not finite in ", bad_in_a_row_, " steps in a row, up to step ", step_,
                       " (loss ", record.loss, "). ", kAdviceAgainstDivergence));
  }
  const bool last = step_ == config_.train.steps;
  if (!config_.data.validation.empty() && (last || due(config_.train.validate_every))) {
    record.validation_loss = validation_loss_ = validate();
  }
  for (std::string& alarm : saves_.take_alarms()) record.alarms.push_back(std::move(alarm));  // logged when they happened
  if (!first_record_) first_record_ = record;
  last_record_ = record;
  if (metrics_) metrics_->append(record);
  if (step_ == first_step_ + 1 || last || record.validation_loss || record.skipped || step_ % config_.log.every_steps == 0) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
    const double each = elapsed.count() / static_cast<double>(step_ - first_step_);
    log_.info(to_line(record, config_.train.steps, each * static_cast<double>(config_.train.steps - step_)));
  }
}

double Trainer::validate() const {
  return validation_loss(model_, *validation_, {config_.train.global_batch, config_.train.micro_batch, config_.train.validation_batches},
                         mesh_);
}

Trainer::Agreement Trainer::agree() const {
  const bool speaks = mesh_.rank() == 0;  // one clock decides when to try again
  at::Tensor facts = at::tensor({static_cast<int64_t>(stop_ && stop_->raised()), static_cast<int64_t>(saves_.is_writing()),
                                 static_cast<int64_t>(speaks && saves_.is_retry_due())},
                                at::kLong);
  mesh_.control().all_reduce(facts, ReduceOp::kMax);
  const int64_t* any = facts.const_data_ptr<int64_t>();
  return {.stop = any[0] != 0, .save_is_over = saves_.has_begun() && any[1] == 0, .retry_is_due = any[2] != 0};
}

bool Trainer::due(int64_t every_steps) const { return step_ == config_.train.steps || (every_steps > 0 && step_ % every_steps == 0); }

void Trainer::announce() const {
  for (const std::string& doubt : doubts_about(config_)) {
    if (mesh_.rank() == 0) log_.warning(doubt);
  }
  const ParameterCount count = parameter_count(config_.model);
  log_.info(concat("model: ", grouped(count.total), " parameters, ", grouped(count.active), " active for a token; ", config_.model.layers,
                   config_.model.layers == 1 ? " layer of which " : " layers of which ", moe_layers_.size(), " have ",
                   config_.model.moe.experts, " experts, ", config_.model.moe.choices, " for each token"));
  if (!moe_layers_.empty() && config_.model.moe.router.kind == RouterKind::kExpertChoice && mesh_.rank() == 0) {
    log_.warning(
        "expert choice: which experts serve a token depends on later tokens of its sequence, so that the loss of this causal model is "
        "better than what generation can reach");
  }
  log_.info(concat("layout: ", mesh_.size(), mesh_.size() == 1 ? " rank" : " ranks", ", experts shared out over ", mesh_.expert_parallel(),
                   "; ", device_name(mesh_.device()), ", ", mesh_.transport() == Transport::kNccl ? "NCCL" : "MPI", ", ",
                   dtype_name(model_.dtype()), ", ", at::get_num_threads(), at::get_num_threads() == 1 ? " thread" : " threads",
                   " a rank"));
  const StepPlan plan(config_.train.global_batch, mesh_.group(Group::kBatch).size(), config_.train.micro_batch);
  log_.info(concat("step: ", config_.train.global_batch, " sequences of ", config_.model.sequence_length, " tokens in ", plan.micro_steps(),
                   plan.micro_steps() == 1 ? " micro-step; " : " micro-steps; ", config_.train.steps, " steps; run folder ",
                   config_.run.directory.string()));
}

void Trainer::summarize() const {
  if (!first_record_ || !last_record_) return;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
  const int64_t steps = step_ - first_step_;
  const auto tokens = static_cast<double>(steps * step_tokens_);
  log_.info(concat("done: ", steps, steps == 1 ? " step in " : " steps in ", human_duration(elapsed.count()), ", ",
                   grouped(static_cast<int64_t>(tokens / elapsed.count())), " tok/s; loss ", fixed(first_record_->loss, 4), " -> ",
                   fixed(last_record_->loss, 4), validation_loss_ ? concat("; validation ", fixed(*validation_loss_, 4)) : std::string(),
                   "; ", (config_.run.directory / "checkpoints").string()));
}

}  // namespace pimoe
