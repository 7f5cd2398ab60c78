#include "train/run_report.h"

#include "base/progress.h"
#include "base/run_paths.h"
#include "base/text.h"
#include "data/data_stream.h"
#include "model/flops.h"
#include "parallel/device.h"
#include "train/divergence.h"
#include "train/metrics_repair.h"
#include "train/precision.h"
#include "train/resume.h"

#include <ATen/Parallel.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace pimoe {

RunReport::RunReport(const TrainConfig& config, const ProcessMesh& mesh, Logger& log, RunEvents* events)
    : config_(config),
      mesh_(mesh),
      log_(log),
      peak_flops_(peak_flops(mesh.device()) * mesh.size()),
      events_(events),
      summary_(config.monitor.metrics) {}

RunReport::~RunReport() = default;

void RunReport::announce(at::ScalarType dtype) const {
  if (is_first_rank()) {
    for (const std::string& doubt : doubts_about(config_, mesh_.size())) log_.warning(doubt);
  }
  const MoeConfig& moe = config_.model.moe;
  const int64_t moe_layers = config_.model.moe_layers();
  const ParameterCount count = parameter_count(config_.model);
  log_.info(concat("model: ", grouped(count.total), " parameters, ", grouped(count.active), " active for a token; ",
                   counted(config_.model.layers, "layer"), ", ",
                   moe_layers == 0 ? std::string("none with experts")
                                   : concat(moe_layers, " with ", moe.experts, " experts each, of which ", moe.choices,
                                            moe.choices == 1 ? " serves" : " serve", " each token")));
  if (moe_layers > 0 && moe.router_traits().by_expert && is_first_rank()) {
    log_.warning(
        "expert choice: which experts serve a token depends on later tokens of its sequence, so that the loss of this causal model is "
        "better than what generation can reach");
  }
  log_.info(concat("layout: ", counted(mesh_.size(), "rank"), ", experts shared out over ", mesh_.expert_parallel(), "; ",
                   device_name(mesh_.device()), ", ", mesh_.transport() == Transport::kNccl ? "NCCL" : "MPI", ", ", dtype_name(dtype), ", ",
                   counted(at::get_num_threads(), "thread"), " a rank"));
  const StepPlan plan(config_.train.global_batch, mesh_.group(Group::kBatch).size(), config_.train.micro_batch);
  log_.info(concat("step: ", counted(config_.train.global_batch, "sequence"), " of ", counted(config_.model.sequence_length, "token"),
                   " in ", counted(plan.micro_steps(), "micro-step"), "; ", counted(config_.train.steps, "step"), "; run folder ",
                   config_.run.directory.string()));
}

void RunReport::announce_blend(const SampleBlend& samples) const {
  if (samples.size() == 1) return;
  const std::vector<double> epochs = samples.epochs_before(config_.train.steps * config_.train.global_batch);
  for (size_t i = 0; i < samples.size(); ++i) {
    log_.info(concat("data: ", samples.corpus(i).prefix().string(), ": ", fixed(100 * samples.order().share(i), 2), " % of the samples; ",
                     grouped(samples.samples_per_epoch(i)), " are an epoch, of which the run's ", counted(config_.train.steps, "step"),
                     " read ", fixed(epochs[i], 2)));
  }
}

void RunReport::announce_documents(const SampleBlend& samples) const {
  if (!config_.data.document_mask) return;
  for (size_t i = 0; i < samples.size(); ++i) {
    const TokenFile& corpus = samples.corpus(i);
    const double mean = static_cast<double>(corpus.token_count()) / static_cast<double>(std::max<int64_t>(1, corpus.document_count()));
    log_.info(concat("documents: attention stays inside each; ", corpus.prefix().string(), ": ",
                     counted(corpus.document_count(), "document"), " of ", fixed(mean, 1), " tokens in the mean"));
    const std::string doubt = doubt_about_documents(corpus);
    if (!doubt.empty() && is_first_rank()) log_.warning(doubt);
  }
}

void RunReport::announce_samples(const SampleBlend& samples) const {
  for (size_t i = 0; i < samples.size(); ++i) {
    const LossMask* const mask = samples.mask(i);
    const std::optional<double> filling = samples.filling(i);
    if (mask == nullptr && !filling) continue;
    const TokenFile& corpus = samples.corpus(i);
    const double share = mask == nullptr ? 1.0 : static_cast<double>(mask->learned()) / static_cast<double>(corpus.token_count());
    log_.info(concat(
        "data: ", corpus.prefix().string(), ": ", counted(corpus.document_count(), "document"), ", ", percent_text(share),
        " of the tokens are learned; ",
        filling ? concat(grouped(samples.samples_per_epoch(i)), " rows of whole documents an epoch, ", percent_text(*filling), " filled")
                : std::string("rows are cut out of one stream")));
  }
}

void RunReport::open_metrics(int64_t step) {
  if (!is_first_rank()) return;
  const std::filesystem::path file = RunPaths(config_.run.directory).metrics();
  if (const std::string done = step > 0 ? mend_metrics(file) : set_metrics_aside(file); !done.empty()) log_.warning(done);
  metrics_ = std::make_unique<MetricsFile>(file, step);
}

void RunReport::begin(int64_t step, at::ScalarType dtype) {
  start_clock(step);
  if (!is_first_rank()) return;
  // A run that was complete comes not so far: what it told stays as it is.
  if (config_.log.tensorboard) curves_ = std::make_unique<TensorboardFile>(RunPaths(config_.run.directory).tensorboard(), step + 1);
  const std::string run = std::filesystem::absolute(config_.run.directory).lexically_normal().filename().string();
  const RunPaths paths(config_.run.directory);
  if (!config_.monitor.alerts.empty()) {
    if (step == 0) std::filesystem::remove(paths.alerts_firing());  // of another run
    alerts_ = std::make_unique<Alerts>(config_.monitor.alerts,
                                       AlertPlaces{.state = paths.alerts_firing(),
                                                   .lines = paths.alerts(),
                                                   .unsent = paths.alerts_unsent(),
                                                   .webhook = config_.monitor.webhook,
                                                   .source = run},
                                       metrics_of_runs(), log_);
  }
  if (config_.monitor.is_on()) {
    prometheus_ = std::make_unique<PrometheusExporter>(config_.monitor, run, config_.train.steps, mesh_.size(), log_);
  }
  if (events_ == nullptr) return;
  const ParameterCount count = parameter_count(config_.model);
  events_->add(step, step == 0 ? run_event::kStart : run_event::kResume,
               {{"ranks", mesh_.size()},
                {"expert_parallel", mesh_.expert_parallel()},
                {"device", device_name(mesh_.device())},
                {"transport", mesh_.transport() == Transport::kNccl ? "NCCL" : "MPI"},
                {"precision", dtype_name(dtype)},
                {"parameters", count.total},
                {"active_parameters", count.active}});
}

void RunReport::start_clock(int64_t step) {
  first_step_ = step;
  started_ = std::chrono::steady_clock::now();
}

double RunReport::elapsed_seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count(); }

void RunReport::add_speed(StepRecord& record, double seconds) const {
  record.memory_bytes = memory_use(mesh_.device()).peak_bytes;
  record.step_seconds = seconds;
  record.tokens_per_second = static_cast<double>(record.step_tokens) / seconds;
  if (peak_flops_ > 0) {
    const TokenFlops flops = token_flops(config_.model);
    record.mfu = flops.megatron * record.tokens_per_second / peak_flops_;
    record.mfu_torchtitan = flops.torchtitan * record.tokens_per_second / peak_flops_;
  }
}

void RunReport::judge(const StepRecord& record) {
  if (!alerts_) return;
  const double now = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  for (const Alerts::Change& change : alerts_->observe(record.step, now, to_scalars(record))) {
    if (events_ == nullptr) continue;
    events_->add(
        record.step, change.fired ? run_event::kAlertFired : run_event::kAlertCleared,
        {{"rule", change.rule}, {"value", std::isfinite(change.value) ? nlohmann::ordered_json(change.value) : nlohmann::ordered_json()}});
  }
  if (prometheus_) prometheus_->set_alerts(alerts_->states());
}

void RunReport::say_stopped_by_alert(int64_t step) const {
  note(step, run_event::kStoppedByAlert);
  log_.info(concat("an alert stopped the run: saved step ", step, "; to go on start ", command_to_go_on(config_), " again"));
}

void RunReport::tell_events(const StepRecord& record) const {
  if (record.adaptive) {
    for (const std::string& move : record.adaptive->moves) log_.info(move);
  }
  if (!is_first_rank()) return;
  for (const std::string& alarm : record.alarms) log_.warning(alarm);
}

void RunReport::add(const StepRecord& record) {
  const PatientOperation on_files;  // the log's too
  if (!first_) first_ = record;
  if (record.step == first_step_ + 1) tokens_before_ = record.tokens - record.step_tokens;
  last_ = record;
  if (record.validation_loss) validation_loss_ = record.validation_loss;
  if (metrics_) tell_trouble(metrics_->append(record), metrics_trouble_);
  if (curves_) tell_trouble(curves_->append(record.step, to_scalars(record)), curves_trouble_);
  if (prometheus_) prometheus_->update(record);
  if (config_.monitor.log_interval > 0 && is_first_rank()) {
    summary_.add(record);
    if (record.step % config_.monitor.log_interval == 0) log_.info(summary_.take());
  }
  const int64_t left = config_.train.steps - record.step;
  const bool is_due = config_.log.every_steps > 0 && record.step % config_.log.every_steps == 0;
  const bool is_skipped = record.outcome != StepOutcome::kTaken;
  if (record.step == first_step_ + 1 || left == 0 || record.validation_loss || is_skipped || is_due) {
    const double each = elapsed_seconds() / static_cast<double>(record.step - first_step_);
    log_.info(to_line(record, config_.train.steps, each * static_cast<double>(left)));
  }
}

void RunReport::roll_back(int64_t from, int64_t to) {
  if (metrics_) tell_trouble(metrics_->roll_back(to), metrics_trouble_);
  if (curves_) tell_trouble(curves_->begin_again(to + 1), curves_trouble_);
  if (events_ != nullptr) events_->add(to, run_event::kRolledBack, {{"from", from}});
  start_clock(to);
}

void RunReport::tell_trouble(const std::string& trouble, std::string& told) {
  if (!trouble.empty() && told.empty()) {
    log_.warning(concat(trouble, ". Training goes on; what is missing is written as soon as that can be done"));
  }
  told = trouble;
}

void RunReport::flush() {
  const auto flush = [this](auto& file, const std::string& told) {
    if (!file || told.empty()) return;
    if (const std::string trouble = file->flush(); !trouble.empty()) log_.warning(concat(trouble, ": its last records are lost"));
  };
  flush(metrics_, metrics_trouble_);
  flush(curves_, curves_trouble_);
}

void RunReport::say_complete(int64_t step) const {
  log_.info(concat("the run is complete: it has done ", counted(step, "step"), ", and train.steps is ", config_.train.steps,
                   ". To train further raise it, as in train.steps=", 2 * std::max<int64_t>(1, step)));
}

void RunReport::say_stopped(int64_t step, bool by_clock) const {
  note(step, run_event::kStopped);
  log_.info(concat(by_clock ? concat("run.walltime (", config_.run.walltime, ") is nearly over") : "asked to stop", ": saved step ", step,
                   "; to go on start ", command_to_go_on(config_), " again"));
}

void RunReport::summarize(int64_t skipped) const {
  if (skipped > 0 && is_first_rank()) {
    log_.warning(concat("the last ", skipped == 1 ? std::string("step was") : concat(skipped, " steps were"), " skipped, because ",
                        kWhySkipped, ": the weights are those of step ", last().step - skipped));
  }
  if (!last_) return;
  note(last_->step, run_event::kComplete);
  const double elapsed = elapsed_seconds();
  const int64_t steps = last_->step - first_step_;
  const auto tokens = static_cast<double>(last_->tokens - tokens_before_);
  log_.info(concat("done: ", counted(steps, "step"), " in ", human_duration(elapsed), ", ", grouped(static_cast<int64_t>(tokens / elapsed)),
                   " tok/s; loss ", fixed(first_->loss, 4), " -> ", fixed(last_->loss, 4),
                   validation_loss_ ? concat("; validation ", fixed(*validation_loss_, 4)) : std::string(), "; ",
                   RunPaths(config_.run.directory).checkpoints().string()));
}

}  // namespace pimoe
