#include "train/trainer.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/progress.h"
#include "base/text.h"
#include "data/tokenizer.h"
#include "model/flops.h"
#include "parallel/device.h"
#include "train/metrics_repair.h"
#include "train/resume.h"
#include "train/router_state.h"
#include "train/validation.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

namespace pimoe {
namespace {

constexpr int64_t kVerifyEvery = 100;  // of `auto`
std::map<std::string, at::Tensor> router_biases(const std::vector<MoELayer*>& layers) {
  std::map<std::string, at::Tensor> biases;
  for (MoELayer* layer : layers) biases[layer->router().name() + ".bias"] = layer->router().bias();
  return biases;
}

}  // namespace

Trainer::Trainer(const TrainConfig& config, const ProcessMesh& mesh, Logger& log, const StopRequest* stop)
    : config_(config),
      mesh_(mesh),
      log_(log),
      stop_(stop),
      learner_(config, agreed_dtype(config.train.precision, mesh), LossScaler::for_float16(), mesh),
      replicas_(learner_.buckets(), learner_.optimizer(), router_biases(learner_.moe_layers()), mesh),
      checkpoints_(config.run.directory / "checkpoints", config.checkpoint, mesh, log),
      saves_(checkpoints_, config.checkpoint, log, mesh.rank() == 0),
      peak_flops_(peak_flops(mesh.device()) * mesh.size()),
      step_tokens_(config.train.global_batch * config.model.sequence_length),
      verify_every_(config.train.verify_every > 0 ? config.train.verify_every : kVerifyEvery) {
  // What is missing is said now, not after hours.
  if (!config_.data.tokenizer.empty()) static_cast<void>(Tokenizer(config_.data.tokenizer));
  const TokenFile corpus(config_.data.train);
  SampleReader(corpus, config_.model.sequence_length, 0, /*shuffle=*/true);
  if (!config_.data.validation.empty()) {
    validation_.emplace(config_.data.validation);
    SampleReader(*validation_, config_.model.sequence_length, 0, /*shuffle=*/false);
  }
  routing_log_.emplace(config_.log.routing, config_.run.directory / "routing", mesh_.rank(), config_.model.router_names(),
                       config_.model.moe, config_.model.sequence_length);
  announce();
  resume();
  if (learner_.replay() != nullptr) {
    const std::string doubt = doubt_about_replay(*learner_.replay(), config_, step());
    if (!doubt.empty() && mesh_.rank() == 0) log_.warning(doubt);
  }
  if (mesh_.rank() == 0) {
    cut_recordings();
    replace_file(config_.run.directory / "config.yaml", to_yaml(config_));
    if (const std::string mended = mend_metrics(config_.run.directory / "metrics.jsonl"); !mended.empty()) log_.warning(mended);
    metrics_ = std::make_unique<MetricsFile>(config_.run.directory / "metrics.jsonl", step());
  }
}

Trainer::~Trainer() = default;

TrainOutcome Trainer::run() {
  if (step() >= config_.train.steps) {
    log_.info(concat("the run is complete: it has done ", counted(step(), "step"), ", and train.steps is ", config_.train.steps,
                     ". To train further raise it, as in train.steps=", 2 * std::max<int64_t>(1, step())));
    return TrainOutcome::kComplete;
  }
  open_data();
  saves_.prepare(state());
  first_step_ = step();
  started_ = std::chrono::steady_clock::now();

  while (step() < config_.train.steps) {
    progress_step(step() + 1);
    const auto begun = std::chrono::steady_clock::now();
    const StepSums sums = accumulate_gradients();
    if (is_verified(step() + 1)) verify_replicas();
    StepRecord record = learner_.update(sums);
    record_routing(record);
    if (is_verified(step() + 1)) replicas_.remember();
    tokens_seen_ += step_tokens_;
    record.tokens = tokens_seen_;
    record.memory_bytes = memory_use(mesh_.device()).peak_bytes;
    synchronize(mesh_.device());  // the optimizer's work was only enqueued: without this the clock would not see it
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begun;
    add_speed(record, seconds.count());
    report(record);
    if (divergence_.is_hopeless()) {
      roll_back();
      continue;
    }

    const Agreement agreed = agree();
    if (agreed.save_is_over) saves_.collect();
    const bool stopping = agreed.stop;
    if (!divergence_.may_save()) {
      if (stopping) break;
      continue;
    }
    const bool is_time = due(config_.checkpoint.every_steps) || agreed.retry_is_due;
    const bool is_due = is_last() ? config_.checkpoint.at_end && divergence_.ends_well() : is_time && divergence_.may_save_when_due();
    if (stopping || is_due) save(/*last=*/stopping || is_last());
    if (stopping && !is_last()) {
      const bool by_clock = stop_ != nullptr && stop_->out_of_time();
      log_.info(concat(by_clock ? concat("run.walltime (", config_.run.walltime, ") is nearly over") : "asked to stop", ": saved step ",
                       step(), "; start the same command again to go on"));
      return TrainOutcome::kStopped;
    }
  }
  saves_.collect();
  if (metrics_ && !metrics_trouble_.empty()) {
    if (const std::string trouble = metrics_->flush(); !trouble.empty()) log_.warning(concat(trouble, ": its last records are lost"));
  }
  const int64_t bad = divergence_.bad_in_a_row();
  if (!divergence_.ends_well()) {
    throw Error(concat("the run ended diverged at step ", step(), ": loss or gradients of its last ", counted(bad, "step"),
                       " were not finite (loss ", last_record_->loss, "). ", advice_against_divergence()));
  }
  if (bad > 0 && mesh_.rank() == 0) {
    log_.warning(concat("the last ", bad == 1 ? std::string("step was") : concat(bad, " steps were"),
                        " skipped, because loss or gradients were not finite: the weights are those of step ", step() - bad));
  }
  summarize();
  return TrainOutcome::kComplete;
}

void Trainer::open_data() {
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
}

void Trainer::verify_replicas() {
  const ProgressPhase phase("verify");
  const std::string trouble = replicas_.trouble();
  if (trouble.empty()) return;
  throw Error(
      concat("memory changed by itself before the update of step ", step() + 1, ": ", trouble,
             ". Nothing of it was saved. Start the same command again, without that host if it happens there again: the run goes on "
             "from its last checkpoint"));
}

void Trainer::save(bool last) {
  const ProgressPhase phase("save");
  if (!learner_.optimizer().weights_are_finite()) {
    throw Error(concat("the run has diverged: after step ", step(), " the weights are not finite (loss ", last_record_->loss,
                       "), and were not saved. ", advice_against_divergence()));
  }
  rollbacks_ = 0;
  saves_.save(snapshot(), last);
}

StepSums Trainer::accumulate_gradients() {
  const ProgressPhase phase("data");
  const StepTerms terms = learner_.begin_step(step_tokens_);
  const auto add_routing = [this](const MicroBatch& batch, const Prediction& prediction) {
    routing_log_->add(step() + 1, batch, prediction);
  };
  return learner_.accumulate_gradients(data_->next_step(), terms, add_routing);
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

void Trainer::add_speed(StepRecord& record, double seconds) const {
  record.step_seconds = seconds;
  record.tokens_per_second = static_cast<double>(step_tokens_) / seconds;
  if (peak_flops_ > 0) {
    const TokenFlops flops = token_flops(config_.model);
    record.mfu = flops.megatron * record.tokens_per_second / peak_flops_;
    record.mfu_torchtitan = flops.torchtitan * record.tokens_per_second / peak_flops_;
  }
}

void Trainer::report(StepRecord& record) {
  if (record.adaptive) {
    for (const std::string& move : record.adaptive->moves) log_.info(move);
  }
  for (const std::string& alarm : record.alarms) {
    if (mesh_.rank() == 0) log_.warning(alarm);
  }
  if (!rolled_back_.empty()) record.alarms.push_back(std::exchange(rolled_back_, {}));  // logged when it happened
  divergence_.observe(record.outcome, record.loss, /*scale_can_fall=*/learner_.loss_scaler().scale > 1.0);
  if (!config_.data.validation.empty() && (is_last() || due(config_.train.validate_every))) {
    record.validation_loss = validation_loss_ = validate();
  }
  for (std::string& alarm : saves_.take_alarms()) record.alarms.push_back(std::move(alarm));  // logged when they happened
  if (!first_record_) first_record_ = record;
  last_record_ = record;
  if (metrics_) {
    const std::string trouble = metrics_->append(record);
    if (!trouble.empty() && metrics_trouble_.empty()) {
      log_.warning(concat(trouble, ". Training goes on; what is missing is written as soon as that can be done"));
    }
    metrics_trouble_ = trouble;
  }
  const bool is_skipped = record.outcome != StepOutcome::kTaken;
  if (step() == first_step_ + 1 || is_last() || record.validation_loss || is_skipped || due(config_.log.every_steps)) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
    const double each = elapsed.count() / static_cast<double>(step() - first_step_);
    log_.info(to_line(record, config_.train.steps, each * static_cast<double>(config_.train.steps - step())));
  }
}

double Trainer::validate() const {
  return validation_loss(learner_.model(), *validation_,
                         {config_.train.global_batch, config_.train.micro_batch, config_.train.validation_batches}, mesh_);
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

bool Trainer::due(int64_t every_steps) const { return every_steps > 0 && step() % every_steps == 0; }

void Trainer::announce() const {
  for (const std::string& doubt : doubts_about(config_)) {
    if (mesh_.rank() == 0) log_.warning(doubt);
  }
  const ParameterCount count = parameter_count(config_.model);
  log_.info(concat("model: ", grouped(count.total), " parameters, ", grouped(count.active), " active for a token; ",
                   counted(config_.model.layers, "layer"), ", ",
                   learner_.moe_layers().empty()
                       ? std::string("none with experts")
                       : concat(learner_.moe_layers().size(), " with ", config_.model.moe.experts, " experts each, of which ",
                                config_.model.moe.choices, config_.model.moe.choices == 1 ? " serves" : " serve", " each token")));
  if (!learner_.moe_layers().empty() && config_.model.moe.router.kind == RouterKind::kExpertChoice && mesh_.rank() == 0) {
    log_.warning(
        "expert choice: which experts serve a token depends on later tokens of its sequence, so that the loss of this causal model is "
        "better than what generation can reach");
  }
  log_.info(concat("layout: ", counted(mesh_.size(), "rank"), ", experts shared out over ", mesh_.expert_parallel(), "; ",
                   device_name(mesh_.device()), ", ", mesh_.transport() == Transport::kNccl ? "NCCL" : "MPI", ", ",
                   dtype_name(learner_.model().dtype()), ", ", counted(at::get_num_threads(), "thread"), " a rank"));
  const StepPlan plan(config_.train.global_batch, mesh_.group(Group::kBatch).size(), config_.train.micro_batch);
  log_.info(concat("step: ", counted(config_.train.global_batch, "sequence"), " of ", counted(config_.model.sequence_length, "token"),
                   " in ", counted(plan.micro_steps(), "micro-step"), "; ", counted(config_.train.steps, "step"), "; run folder ",
                   config_.run.directory.string()));
}

void Trainer::summarize() const {
  if (!first_record_ || !last_record_) return;
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
  const int64_t steps = step() - first_step_;
  const auto tokens = static_cast<double>(steps * step_tokens_);
  log_.info(concat("done: ", counted(steps, "step"), " in ", human_duration(elapsed.count()), ", ",
                   grouped(static_cast<int64_t>(tokens / elapsed.count())), " tok/s; loss ", fixed(first_record_->loss, 4), " -> ",
                   fixed(last_record_->loss, 4), validation_loss_ ? concat("; validation ", fixed(*validation_loss_, 4)) : std::string(),
                   "; ", (config_.run.directory / "checkpoints").string()));
}

}  // namespace pimoe
