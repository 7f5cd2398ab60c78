#include "train/trainer.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/progress.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "checkpoint/step_folders.h"
#include "data/tokenizer.h"
#include "ops/trace_range.h"
#include "parallel/device.h"
#include "train/resume.h"
#include "train/router_state.h"
#include "train/validation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <chrono>
#include <utility>

namespace pimoe {
namespace {

constexpr int64_t kVerifyEvery = 100;  // of `auto`

std::map<std::string, at::Tensor> router_biases(const std::vector<MoELayer*>& layers) {
  std::map<std::string, at::Tensor> biases;
  for (MoELayer* layer : layers) biases[layer->router().name() + ".bias"] = layer->router().bias();
  return biases;
}

}  // namespace

Trainer::Trainer(const TrainConfig& config, const ProcessMesh& mesh, Logger& log, const StopRequest* stop, RunLock* lock,
                 InitialWeights weights)
    : config_(config),
      mesh_(mesh),
      log_(log),
      stop_(stop),
      lock_(lock),
      initial_weights_(std::move(weights)),
      events_(mesh.rank() == 0 ? std::make_unique<RunEvents>(config.run.directory, log) : nullptr),
      learner_(config, agreed_dtype(config.train.precision, mesh), LossScaler::for_float16(), mesh),
      replicas_(learner_.buckets(), learner_.optimizer(), router_biases(learner_.moe_layers()), mesh),
      checkpoints_(RunPaths(config.run.directory).checkpoints(), config.checkpoint, mesh, log),
      saves_(checkpoints_, config.checkpoint, log, mesh.rank() == 0, events_.get()),
      report_(config, mesh, log, events_.get()),
      step_tokens_(config.train.global_batch * config.model.sequence_length),
      verify_every_(config.train.verify_every > 0 ? config.train.verify_every : kVerifyEvery) {
  // What is missing is said now, not after hours.
  if (!config_.data.tokenizer.empty()) static_cast<void>(Tokenizer(config_.data.tokenizer));
  const SampleBlend samples(config_.data.training(), config_.model.sequence_length, static_cast<uint64_t>(config_.run.seed),
                            /*shuffle=*/true, config_.data.samples());
  if (!config_.data.validation.empty()) {
    validation_.emplace(config_.data.validation);
    ValidationPart(*validation_, config_.model.sequence_length, validation_plan());
  }
  data_facts_ = data_facts_of_rank_0(config_.data, mesh_.control(), mesh_.node_rank() == 0);
  routing_log_.emplace(config_.log.routing, RunPaths(config_.run.directory).routing(), mesh_.rank(), config_.model.router_names(),
                       config_.model.moe, config_.model.sequence_length);
  report_.announce(learner_.model().dtype());
  report_.announce_blend(samples);
  report_.announce_documents(samples);
  report_.announce_samples(samples);
  resume();
  if (learner_.replay() != nullptr) {
    const std::string doubt = doubt_about_replay(*learner_.replay(), config_, step());
    if (!doubt.empty() && mesh_.rank() == 0) log_.warning(doubt);
  }
  if (mesh_.rank() == 0) {
    cut_recordings();
    write_config();
  }
  report_.open_metrics(step());
}

Trainer::~Trainer() = default;

void Trainer::write_config() const {
  const std::filesystem::path file = RunPaths(config_.run.directory).config();
  try {
    replace_file(file, to_yaml(config_));
  } catch (const IoError& error) {
    // A first start finds out now that nothing can be saved here. A run that has saved goes on: room may come, and each checkpoint has its configuration.
    if (!error.is_lack_of_space() || list_steps(RunPaths(config_.run.directory).checkpoints()).empty()) throw;
    log_.warning(concat(error.what(), ". Training goes on; ", file.filename().string(), " is not that of this start"));
  }
}

TrainOutcome Trainer::run() {
  if (step() >= config_.train.steps) {
    report_.say_complete(step());
    return TrainOutcome::kComplete;
  }
  open_data();
  saves_.prepare(state());
  report_.begin(step(), learner_.model().dtype());

  while (step() < config_.train.steps) {
    progress_step(step() + 1);
    if (profile_) profile_->begin_step(step() + 1);
    const auto begun = std::chrono::steady_clock::now();
    const bool is_host_shared = mesh_.device().is_cpu() && saves_.is_writing();  // a save begins between steps alone
    const StepSums sums = accumulate_gradients();
    if (is_verified(step() + 1)) verify_memory(concat("before the update of step ", step() + 1));
    StepRecord record = learner_.update(sums);
    record_routing(record);
    if (is_host_shared) record.activation_bytes.reset();
    record.step_tokens = step_tokens_;
    record.learned_tokens = learned_tokens_;
    record.tokens = tokens_seen_ += step_tokens_;
    if (data_->samples().size() > 1) record.epochs = data_->samples().epochs_before(data_->cursor().next_sample);
    synchronize(mesh_.device());  // the optimizer's work was only enqueued: without this the clock would not see it
    report_.add_speed(record, std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count());
    report(record);
    if (divergence_.is_hopeless()) {
      roll_back();
      continue;
    }

    const Agreement agreed = agree();
    if (agreed.folder_is_lost) require_own_folder();
    if (agreed.state_changed) verify_memory(concat("before the update of step ", step()));
    if (agreed.save_is_over || is_last()) saves_.collect();
    if (is_save_due(agreed)) save(/*last=*/agreed.stop || is_last());
    if (agreed.stop && divergence_.may_save() && !is_last()) {
      if (profile_) profile_->finish();
      report_.flush();
      if (agreed.alert_stops) {
        report_.say_stopped_by_alert(step());
        return TrainOutcome::kStoppedByAlert;
      }
      report_.say_stopped(step(), /*by_clock=*/stop_ != nullptr && stop_->out_of_time(saves_.foreseen_seconds()));
      return TrainOutcome::kStopped;
    }
    if (agreed.stop) break;
  }
  return finish();
}

bool Trainer::is_save_due(const Agreement& agreed) const {
  if (!divergence_.may_save()) return false;
  if (agreed.stop) return true;
  if (is_last() && config_.checkpoint.at_end) return divergence_.ends_well();
  const bool is_wanted_again = is_last() ? saves_.has_failed() : agreed.retry_is_due;
  const bool is_due = due(config_.checkpoint.every_steps) && !saves_.backs_off();
  return (is_due || is_wanted_again) && divergence_.may_save_when_due();
}

TrainOutcome Trainer::finish() {
  if (profile_) profile_->finish();
  saves_.collect();
  report_.flush();
  const int64_t skipped = divergence_.skipped_in_a_row();
  if (!divergence_.ends_well()) {
    throw Error(concat("the run ended diverged at step ", step(), ": its last ", counted(skipped, "step"), skipped == 1 ? " was" : " were",
                       " skipped, because ", kWhySkipped, " (loss ", report_.last().loss, "). ", advice_against_divergence()));
  }
  report_.summarize(skipped);
  return TrainOutcome::kComplete;
}

void Trainer::open_data() { data_ = std::make_unique<DataStream>(config_.data.training(), stream_options(config_, mesh_), start_); }

void Trainer::verify_memory(const std::string& when) {
  const TracedPhase phase("verify");
  const std::string trouble = replicas_.trouble();
  if (trouble.empty()) return;
  throw Error(concat("memory changed by itself ", when, ": ", trouble,
                     ". Nothing of it was saved. To go on from the last checkpoint start ", command_to_go_on(config_),
                     " again, without that host if it happens there again"));
}

void Trainer::save(bool last) {
  const TracedPhase phase("save");
  // What flipped since the update would be saved, and be the truth after a restart.
  learner_.optimizer().compare_state();
  synchronize(mesh_.device());
  if (on_any_rank(learner_.optimizer().found_change())) verify_memory(concat("after the update of step ", step()));
  if (!learner_.optimizer().weights_are_finite()) {
    throw Error(concat("the run has diverged: after step ", step(), " the weights are not finite (loss ", report_.last().loss,
                       "), and were not saved. ", advice_against_divergence()));
  }
  if (divergence_.skipped_in_a_row() == 0) rollbacks_ = 0;
  saves_.save(snapshot(), last);
}

StepSums Trainer::accumulate_gradients() {
  const std::vector<MicroBatch> batches = next_batches();
  if (!data_->samples().is_plain()) {
    const StepCounts counts = step_counts(batches, mesh_);
    step_tokens_ = counts.tokens;
    learned_tokens_ = counts.targets;
  }
  const StepTerms terms = learner_.begin_step(step_tokens_, learned_tokens_);
  const auto add_routing = [this](const MicroBatch& batch, const Prediction& prediction) {
    routing_log_->add(step() + 1, batch, prediction);
  };
  // Who looks into a step does not want it replayed as a whole; to a profiler it would be one call without phases.
  const bool is_looked_into = routing_log_->is_due(step() + 1) || (profile_ && profile_->is_open());
  return learner_.accumulate_gradients(batches, terms, is_looked_into ? PredictionObserver(add_routing) : nullptr);
}

std::vector<MicroBatch> Trainer::next_batches() {
  const TracedPhase phase("data");
  return data_->next_step();
}

void Trainer::record_routing(StepRecord& record) {
  if (!routing_log_->is_due(record.step)) return;
  const std::string trouble = mesh_.control().agree(routing_log_->write());
  if (trouble.empty()) return;
  record.alarms.push_back(concat("step ", record.step, ": routing decisions were not recorded: ", trouble, ". Training goes on"));
}

void Trainer::cut_recordings() {
  for (const std::string& trouble : routing_log_->cut_after(step())) log_.warning(trouble);
}

void Trainer::report(StepRecord& record) {
  report_.tell_events(record);
  if (!rolled_back_.empty()) record.alarms.push_back(std::exchange(rolled_back_, {}));  // logged when it happened
  divergence_.observe(record.outcome, record.loss, /*scale_can_fall=*/learner_.loss_scaler().scale > 1.0);
  if (!config_.data.validation.empty() && (is_last() || due(config_.train.validate_every))) {
    record.validation_loss = validate();
    if (!record.validation_loss) log_.info(concat("asked to stop: step ", step(), " is left without its validation"));
  }
  for (std::string& alarm : saves_.take_alarms()) record.alarms.push_back(std::move(alarm));  // logged when they happened
  report_.judge(record);
  report_.add(record);
}

std::optional<double> Trainer::validate() const {
  return validation_loss(learner_.model(), *validation_, validation_plan(), mesh_, [this] { return is_asked_to_stop(); });
}

ValidationPlan Trainer::validation_plan() const {
  return {.batch = config_.train.global_batch,
          .micro_batch = config_.train.micro_batch,
          .batches = config_.train.validation_batches,
          .loss = config_.data.loss,
          .document_mask = config_.data.document_mask};
}

bool Trainer::is_asked_to_stop() const { return stop_ != nullptr && on_any_rank(stop_->raised(saves_.foreseen_seconds())); }

bool Trainer::on_any_rank(bool here) const {
  at::Tensor any = at::tensor({static_cast<int64_t>(here)}, at::kLong);
  mesh_.control().all_reduce(any, ReduceOp::kMax);
  return any.item<int64_t>() != 0;
}

Trainer::Agreement Trainer::agree() {
  const bool speaks = mesh_.rank() == 0;  // one clock decides when to try again
  at::Tensor facts =
      at::tensor({static_cast<int64_t>(stop_ && stop_->raised(saves_.foreseen_seconds())), static_cast<int64_t>(saves_.is_writing()),
                  static_cast<int64_t>(speaks && saves_.is_retry_due()), static_cast<int64_t>(!folder_trouble().empty()),
                  static_cast<int64_t>(learner_.optimizer().found_change()), static_cast<int64_t>(report_.alert_stops())},
                 at::kLong);
  mesh_.control().all_reduce(facts, ReduceOp::kMax);
  const int64_t* any = facts.const_data_ptr<int64_t>();
  return {.stop = any[0] != 0 || any[5] != 0,
          .alert_stops = any[5] != 0,
          .save_is_over = saves_.has_begun() && any[1] == 0,
          .retry_is_due = any[2] != 0,
          .folder_is_lost = any[3] != 0,
          .state_changed = any[4] != 0};
}

void Trainer::require_own_folder() {
  if (const std::string trouble = mesh_.control().agree(folder_trouble()); !trouble.empty()) throw ConfigError(trouble);
}

bool Trainer::due(int64_t every_steps) const { return every_steps > 0 && step() % every_steps == 0; }

}  // namespace pimoe
