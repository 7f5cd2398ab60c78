#include "train/trainer.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "model/flops.h"
#include "moe/balance.h"
#include "parallel/device.h"
#include "parallel/precision.h"
#include "train/router_state.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

constexpr int64_t kMostSkipsInARow = 10;

/// As the configuration spells it; libtorch says BFloat16 and Half.
const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return "float64";
    case at::kBFloat16: return "bfloat16";
    case at::kHalf: return "float16";
    default: return "float32";
  }
}

/// A run goes on with the model that it began with: weights of equal shape can mean other maths, and layers left out would be lost with the
/// next checkpoint.
/// @throws ConfigError with every line of `model:` that differs
void require_same_model(const TrainConfig& saved, const TrainConfig& wanted, const std::string& checkpoint) {
  const auto lines = [&](const TrainConfig& config) {
    ModelConfig model = config.model;
    model.moe.balance = wanted.model.moe.balance;  // losses and the scale of initial weights may change
    model.initial_deviation = wanted.model.initial_deviation;
    return split(print_fields([&](FieldVisitor& visit) { model.fields(visit); }), '\n');
  };
  const std::vector<std::string> had = lines(saved);
  const std::vector<std::string> has = lines(wanted);
  std::string differences;
  for (size_t line = 0; line < std::min(had.size(), has.size()); ++line) {
    if (had[line] != has[line]) differences += concat("\n  the checkpoint has ", had[line], ", the configuration ", has[line]);
  }
  if (differences.empty()) return;
  throw ConfigError(concat("the configuration's model is not the one of ", checkpoint, ":", differences,
                           "\n  Go on with the checkpoint's model, or choose another run.directory for a new one."));
}

/// `auto` is what the slowest rank's device is fast at: ranks of different machines must not train in different dtypes.
at::ScalarType agreed_dtype(Precision precision, const ProcessMesh& mesh) {
  if (precision != Precision::kAuto) return compute_dtype(precision, mesh.device());
  at::Tensor fast = at::tensor({static_cast<int64_t>(has_fast_bfloat16(mesh.device()) ? 1 : 0)}, at::kLong);
  mesh.control().all_reduce(fast, ReduceOp::kMin);
  return fast.item<int64_t>() != 0 ? at::kBFloat16 : at::kFloat;
}

}  // namespace

/// Sums of one step on this rank, on the device, until a collective brings them to everyone.
struct Trainer::StepSums {
  at::Tensor cross_entropy;  ///< scalar
  at::Tensor load;           ///< [N, E] int64, already summed over the ranks
  at::Tensor switch_part;    ///< [N]
  at::Tensor z_part;         ///< [N]
  at::Tensor confidence;     ///< [N]
  int64_t activation_bytes = 0;
};

Trainer::Trainer(const TrainConfig& config, const ProcessMesh& mesh, Logger& log, const StopRequest* stop)
    : config_(config),
      mesh_(mesh),
      log_(log),
      stop_(stop),
      model_(config.model, agreed_dtype(config.train.precision, mesh), mesh),
      moe_layers_(model_.moe_layers()),
      buckets_(model_.parameters(), mesh, ParameterBuckets::kBucketBytes, /*trained=*/true),
      optimizer_(buckets_, config.optimizer, mesh),
      reducer_(buckets_, mesh),
      checkpoints_(config.run.directory / "checkpoints", config.checkpoint, mesh, log),
      peak_flops_(peak_flops(mesh.device()) * mesh.size()) {
  if (model_.dtype() == at::kHalf) loss_scaler_ = LossScaler::for_float16();
  // What is missing is said now, not after hours.
  const TokenFile corpus(config_.data.train);
  SampleReader(corpus, config_.model.sequence_length, 0, /*shuffle=*/true);
  if (!config_.data.validation.empty()) {
    validation_.emplace(config_.data.validation);
    SampleReader(*validation_, config_.model.sequence_length, 0, /*shuffle=*/false);
  }
  announce();
  resume();
  if (mesh_.rank() == 0) {
    replace_file(config_.run.directory / "config.yaml", to_yaml(config_));
    metrics_ = std::make_unique<MetricsFile>(config_.run.directory / "metrics.jsonl", step_);
  }
}

Trainer::~Trainer() = default;

std::optional<std::filesystem::path> Trainer::checkpoint_to_resume() {
  const std::string& wish = config_.checkpoint.resume;
  const std::optional<std::filesystem::path> own = checkpoints_.newest_good();
  if (wish == "auto") {
    // Beginning again would wipe the record of a run that somebody may still repair.
    if (const auto damaged = damaged_checkpoints(); !own && damaged > 0) {
      throw CheckpointError(concat("none of this run's checkpoints is good: ", damaged, " set aside as ",
                                   (config_.run.directory / "checkpoints/step-*.bad").string(),
                                   ". To begin again choose another run.directory, or set checkpoint.resume=none"));
    }
    return own;
  }
  if (wish == "none") {
    // A second run in the same folder would leave two runs' checkpoints side by side, and the next `auto` could take the wrong one.
    if (own) {
      throw ConfigError(concat("checkpoint.resume is none, but run.directory (", config_.run.directory.string(), ") has ",
                               own->filename().string(), ": choose another run.directory, or remove that one"));
    }
    return std::nullopt;
  }
  const std::filesystem::path start = std::filesystem::canonical(find_checkpoint(wish));
  const bool of_this_run = std::filesystem::equivalent(start.parent_path(), config_.run.directory / "checkpoints");
  if (!own || of_this_run) return start;
  log_.info(concat("going on with this run's own ", own->filename().string(), "; checkpoint.resume (", wish, ") is where it began"));
  return own;
}

int64_t Trainer::damaged_checkpoints() const {
  const std::filesystem::directory_iterator folder(config_.run.directory / "checkpoints");
  return std::count_if(begin(folder), end(folder), [](const auto& entry) { return entry.path().extension() == ".bad"; });
}

void Trainer::resume() {
  const std::optional<std::filesystem::path> found = checkpoint_to_resume();
  if (!found) {
    log_.info(concat("from scratch: drawing the initial weights with seed ", config_.run.seed));
    optimizer_.initialize(static_cast<uint64_t>(config_.run.seed));
    return;
  }
  const TrainConfig before = parse_train_config(read_manifest(*found).config, (*found / "manifest.json").string());
  require_same_model(before, config_, found->string());
  if (before.run.seed != config_.run.seed) {
    log_.warning(concat("run.seed was ", before.run.seed, " and is ", config_.run.seed, ": the order of the data changes from here on"));
  }
  Snapshot saved = snapshot();
  checkpoints_.restore(*found, saved);
  step_ = saved.step;
  tokens_seen_ = saved.counters.at("tokens_seen");
  skipped_in_a_row_ = saved.counters.at("skipped_in_a_row");
  start_.next_sample = saved.counters.at("next_sample");
  if (loss_scaler_.dynamic && saved.counters.at("loss_scale_dynamic") != 0) {
    loss_scaler_.scale = saved.numbers.at("loss_scale");
    loss_scaler_.good_steps = saved.counters.at("loss_scale_good_steps");
  }
  optimizer_.set_steps_taken(saved.counters.at("optimizer_steps"));
  optimizer_.publish();
  log_.info(concat("resumed from ", found->string(), ": step ", step_, ", ", grouped(tokens_seen_), " tokens seen"));
}

Snapshot Trainer::snapshot() {
  Snapshot state;
  state.step = step_;
  state.numbers = {{"loss_scale", loss_scaler_.scale}};
  state.counters = {{"tokens_seen", tokens_seen_},
                    {"next_sample", data_ ? data_->cursor().next_sample : start_.next_sample},
                    {"optimizer_steps", optimizer_.steps_taken()},
                    {"skipped_in_a_row", skipped_in_a_row_},
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
    if (finite) {
      optimizer_.step(learning_rate, gradient_norm, loss_scaler_.scale);
      for (size_t layer = 0; layer < moe_layers_.size() && config_.model.moe.balance.bias_rate > 0; ++layer) {
        update_bias(moe_layers_[layer]->router().bias(), sums.load[static_cast<int64_t>(layer)], config_.model.moe.balance.bias_rate);
      }
    }
    ++step_;
    tokens_seen_ += config_.train.global_batch * config_.model.sequence_length;
    StepRecord record = finish_record(sums, gradient_norm, learning_rate, !finite);
    synchronize(mesh_.device());  // the optimizer's work was only enqueued: without this the clock would not see it
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begun;
    add_speed(record, seconds.count());
    loss_scaler_.update(finite);
    report(record);

    const bool stopping = all_asked_to_stop();
    const bool last = step_ == config_.train.steps;
    // While steps are skipped nothing changes: checkpoints of it would only push out good ones.
    if (is_diverging() && !stopping) continue;
    if (stopping || (last ? config_.checkpoint.at_end : due(config_.checkpoint.every_steps))) {
      checkpoints_.save(snapshot());
    }
    if (stopping && !last) {
      log_.info(concat("asked to stop: saved step ", step_, "; start the same command again to go on"));
      return TrainOutcome::kStopped;
    }
  }
  summarize();
  if (is_diverging()) {
    throw Error(concat("the run ended diverged: the gradients of its last ", skipped_in_a_row_, " steps were not finite (loss ",
                       last_record_->loss, "); lower optimizer.learning_rate"));
  }
  return TrainOutcome::kComplete;
}

Trainer::StepSums Trainer::accumulate_gradients() {
  const auto options = at::TensorOptions().device(mesh_.device());
  const auto moe_layers = static_cast<int64_t>(moe_layers_.size());
  const auto precision = at_least_float32(model_.dtype());
  const double step_tokens = static_cast<double>(config_.train.global_batch * config_.model.sequence_length);
  StepSums sums;
  sums.cross_entropy = at::zeros({1}, options.dtype(precision));
  sums.load = at::zeros({moe_layers, std::max<int64_t>(1, config_.model.moe.experts)}, options.dtype(at::kLong));
  sums.switch_part = at::zeros({moe_layers}, options.dtype(precision));
  sums.z_part = at::zeros({moe_layers}, options.dtype(precision));
  sums.confidence = at::zeros({moe_layers}, options.dtype(precision));

  reducer_.begin_step();
  for (const MicroBatch& batch : data_->next_step()) {
    const int64_t before = memory_use(mesh_.device()).now_bytes;
    const at::Tensor tokens = batch.tokens.to(mesh_.device(), /*non_blocking=*/true);
    const at::Tensor targets = batch.targets.to(mesh_.device(), /*non_blocking=*/true);
    const Prediction prediction = model_.forward(tokens, targets, config_.train.recompute);
    at::Tensor loss = prediction.cross_entropy_sum / step_tokens;
    if (moe_layers > 0) {
      const BalanceTerms balance = balance_terms(prediction.routing, config_.model.moe.balance, step_tokens, mesh_.group(Group::kBatch));
      loss = loss + balance.loss;
      sums.load += balance.load;
      sums.switch_part += balance.switch_part;
      sums.z_part += balance.z_part;
      std::vector<at::Tensor> confidences;
      for (const RoutingRecord& record : prediction.routing) confidences.push_back(record.confidence_sum);
      sums.confidence += at::stack(confidences) / step_tokens;
    }
    sums.activation_bytes = std::max(sums.activation_bytes, memory_use(mesh_.device()).now_bytes - before);
    reducer_.begin_backward(batch.is_last);
    (loss * loss_scaler_.scale).backward();
    sums.cross_entropy += prediction.cross_entropy_sum.detach();
  }
  reducer_.finish();
  return sums;
}

StepRecord Trainer::finish_record(const StepSums& sums, double gradient_norm, double learning_rate, bool skipped) {
  const auto layers = static_cast<int64_t>(moe_layers_.size());
  at::Tensor shared = at::cat({sums.cross_entropy, sums.switch_part, sums.z_part, sums.confidence}).to(at::kDouble);
  mesh_.group(Group::kBatch).all_reduce(shared);
  const at::Tensor host = shared.cpu();
  const double* values = host.const_data_ptr<double>();

  StepRecord record;
  record.step = step_;
  record.loss = values[0] / static_cast<double>(config_.train.global_batch * config_.model.sequence_length);
  record.gradient_norm = gradient_norm;
  record.learning_rate = learning_rate;
  record.loss_scale = loss_scaler_.scale;
  record.skipped = skipped;
  record.tokens = tokens_seen_;
  record.memory_bytes = memory_use(mesh_.device()).peak_bytes;
  record.activation_bytes = sums.activation_bytes;
  if (layers > 0) {
    RoutingMetrics routing = routing_metrics(sums.load.cpu());
    routing.balance_loss.assign(values + 1, values + 1 + layers);
    routing.z_loss.assign(values + 1 + layers, values + 1 + 2 * layers);
    routing.gate_confidence.assign(values + 1 + 2 * layers, values + 1 + 3 * layers);
    for (MoELayer* layer : moe_layers_) {
      routing.bias_min.push_back(layer->router().bias().min().item<double>());
      routing.bias_max.push_back(layer->router().bias().max().item<double>());
    }
    record.routing = std::move(routing);
  }
  return record;
}

void Trainer::add_speed(StepRecord& record, double seconds) const {
  record.step_seconds = seconds;
  record.tokens_per_second = static_cast<double>(config_.train.global_batch * config_.model.sequence_length) / seconds;
  if (peak_flops_ > 0) {
    const TokenFlops flops = token_flops(config_.model);
    record.mfu = flops.megatron * record.tokens_per_second / peak_flops_;
    record.mfu_torchtitan = flops.torchtitan * record.tokens_per_second / peak_flops_;
  }
}

void Trainer::report(StepRecord& record) {
  skipped_in_a_row_ = record.skipped ? skipped_in_a_row_ + 1 : 0;
  if (skipped_in_a_row_ >= kMostSkipsInARow && is_diverging()) {
    throw Error(concat("the gradients were not finite in ", kMostSkipsInARow, " steps in a row, up to step ", step_, " (loss ", record.loss,
                       "): lower optimizer.learning_rate, or look at the data of these steps"));
  }
  const bool last = step_ == config_.train.steps;
  if (!config_.data.validation.empty() && (last || due(config_.train.validate_every))) {
    record.validation_loss = validation_loss_ = validate();
  }
  if (!first_record_) first_record_ = record;
  last_record_ = record;
  if (metrics_) metrics_->append(record);
  if (step_ == first_step_ + 1 || last || record.validation_loss || record.skipped || step_ % config_.log.every_steps == 0) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
    const double each = elapsed.count() / static_cast<double>(step_ - first_step_);
    log_.info(to_line(record, config_.train.steps, each * static_cast<double>(config_.train.steps - step_)));
  }
}

double Trainer::validate() {
  const at::NoGradGuard no_gradients;
  const int64_t length = config_.model.sequence_length;
  const SampleReader reader(*validation_, length, 0, /*shuffle=*/false);
  const int64_t sequences = std::min(reader.samples_per_epoch(), config_.train.validation_batches * config_.train.global_batch);
  const Communicator& group = mesh_.group(Group::kBatch);
  const StepPlan plan(sequences, group.size(), config_.train.micro_batch);
  at::Tensor sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(mesh_.device()));
  for (int64_t micro_step = 0; micro_step < plan.micro_steps(); ++micro_step) {
    const auto [first, count] = plan.share(micro_step, group.rank());
    const at::Tensor rows = at::zeros({count, length + 1}, at::kLong);
    for (int64_t row = 0; row < count; ++row) {
      int64_t* ids = rows.mutable_data_ptr<int64_t>() + row * (length + 1);
      reader.read(first + row, ids);
      validation_->require_ids_below(config_.model.vocabulary, (first + row) * length, ids, length + 1);
    }
    const at::Tensor tokens = rows.narrow(1, 0, length).contiguous().to(mesh_.device());
    const at::Tensor targets = rows.narrow(1, 1, length).contiguous().to(mesh_.device());
    sum += model_.forward(tokens, targets).cross_entropy_sum.to(at::kDouble);
  }
  group.all_reduce(sum);
  return sum.item<double>() / static_cast<double>(sequences * length);
}

bool Trainer::all_asked_to_stop() const {
  at::Tensor asked = at::tensor({static_cast<int64_t>(stop_ && stop_->raised() ? 1 : 0)}, at::kLong);
  mesh_.control().all_reduce(asked, ReduceOp::kMax);
  return asked.item<int64_t>() != 0;
}

bool Trainer::is_diverging() const { return skipped_in_a_row_ > 0 && loss_scaler_.scale <= 1.0; }

bool Trainer::due(int64_t every_steps) const { return step_ == config_.train.steps || (every_steps > 0 && step_ % every_steps == 0); }

void Trainer::announce() const {
  const ParameterCount count = parameter_count(config_.model);
  log_.info(concat("model: ", grouped(count.total), " parameters, ", grouped(count.active), " active for a token; ", config_.model.layers,
                   " layers of which ", moe_layers_.size(), " have ", config_.model.moe.experts, " experts, ", config_.model.moe.choices,
                   " for each token"));
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
  const auto tokens = static_cast<double>(steps * config_.train.global_batch * config_.model.sequence_length);
  log_.info(concat("done: ", steps, steps == 1 ? " step in " : " steps in ", human_duration(elapsed.count()), ", ",
                   grouped(static_cast<int64_t>(tokens / elapsed.count())), " tok/s; loss ", fixed(first_record_->loss, 4), " -> ",
                   fixed(last_record_->loss, 4), validation_loss_ ? concat("; validation ", fixed(*validation_loss_, 4)) : std::string(),
                   "; ", (config_.run.directory / "checkpoints").string()));
}

}  // namespace pimoe
