/// The trainer's state in checkpoints: what is in them, and how a run goes on from one.

#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/training_state.h"
#include "checkpoint/verification.h"
#include "ops/trace_range.h"
#include "parallel/agreement.h"
#include "train/load_proof.h"
#include "train/possible_state.h"
#include "train/resume.h"
#include "train/router_state.h"
#include "train/trainer.h"

#include <algorithm>

namespace pimoe {

Snapshot Trainer::snapshot() {
  Snapshot whole = state();
  learner_.use_temperature();
  add_load_proof(whole, learner_.model(), mesh_);
  return whole;
}

Snapshot Trainer::state() {
  Snapshot state;
  state.step = step();
  state.numbers = {{state_number::kLossScale, learner_.loss_scaler().scale}};
  if (config_.model.moe.controlled()) state.numbers.merge(learner_.adaptive().state());
  state.numbers.merge(learner_.watch().state());
  state.numbers.merge(learner_.spikes().state());
  state.counters = {{state_counter::kTokensSeen, tokens_seen_},
                    {state_counter::kNextSample, data_ ? data_->cursor().next_sample : start_.next_sample},
                    {state_counter::kOptimizerSteps, learner_.optimizer().steps_taken()},
                    {state_counter::kSkippedInARow, divergence_.skipped_in_a_row()},
                    {state_counter::kNotFiniteInARow, divergence_.bad_in_a_row()},
                    {state_counter::kLossScaleDynamic, learner_.loss_scaler().dynamic ? 1 : 0},
                    {state_counter::kLossScaleGoodSteps, learner_.loss_scaler().good_steps}};
  state.counters.insert(data_facts_.begin(), data_facts_.end());
  state.config = to_yaml(config_);
  state.pieces = learner_.state_pieces();
  return state;
}

std::map<std::string, int64_t> Trainer::restore(const std::filesystem::path& checkpoint, const TrainConfig& before) {
  Snapshot saved = state();
  // What may be missing: the run was not under adaptive control, or was not watched for spikes or by this watch of routers, or had other data.
  std::erase_if(saved.numbers, [](const auto& number) {
    return AdaptiveControl::is_state(number.first) || RouterWatch::is_state(number.first) || SpikeWatch::is_state(number.first);
  });
  saved.counters.erase(state_counter::kNotFiniteInARow);
  std::erase_if(saved.counters, [](const auto& counter) { return is_data_fact(counter.first); });
  checkpoints_.restore(checkpoint, saved);
  require_possible(saved, checkpoint.string());
  learner_.set_step(saved.step);
  tokens_seen_ = saved.counters.at(state_counter::kTokensSeen);
  const int64_t skipped = saved.counters.at(state_counter::kSkippedInARow);
  const auto not_finite = saved.counters.find(state_counter::kNotFiniteInARow);
  divergence_.resume(not_finite == saved.counters.end() ? skipped : not_finite->second, skipped);
  start_.next_sample = saved.counters.at(state_counter::kNextSample);
  LossScaler& scaler = learner_.loss_scaler();
  if (scaler.dynamic && saved.counters.at(state_counter::kLossScaleDynamic) != 0) {
    scaler.scale = saved.numbers.at(state_number::kLossScale);
    scaler.good_steps = saved.counters.at(state_counter::kLossScaleGoodSteps);
  }
  if (config_.model.moe.controlled() && !learner_.adaptive().restore(saved.numbers)) {
    log_.info("adaptive control begins afresh: the checkpoint was written without it");
  }
  learner_.watch().restore(saved.numbers);
  learner_.spikes().restore(saved.numbers);
  learner_.optimizer().set_steps_taken(saved.counters.at(state_counter::kOptimizerSteps));
  learner_.optimizer().publish();
  // The proof is of the model that was saved; the run may go on at another temperature, see settle_temperature.
  for (MoELayer* layer : learner_.moe_layers()) {
    require_finite_bias(*layer);
    layer->router().set_temperature(temperature_of(before, saved.numbers));
  }
  const LoadProof proof = prove_loaded(saved, before, learner_.model(), config_, mesh_);
  if (proof.suspicious && mesh_.rank() == 0) log_.warning(proof.said);
  if (!proof.suspicious) log_.info(proof.said);
  learner_.use_temperature();
  return saved.counters;
}

std::optional<std::map<std::string, int64_t>> Trainer::restore_or_set_aside(const std::filesystem::path& checkpoint,
                                                                            const TrainConfig& before) {
  try {
    return restore(checkpoint, before);
  } catch (const DamageError& error) {  // the contract: the same on every rank
    if (!checkpoints_.set_aside(checkpoint, error.what())) throw;
    return std::nullopt;
  } catch (const IoError& error) {  // likewise: what reads a checkpoint whole, to look for the newest, judges it
    if (!is_bad_medium(error) || std::exchange(has_looked_again_, true)) throw;
    if (mesh_.rank() == 0) log_.warning(concat("loading ", checkpoint.string(), ": ", error.what(), ". Looking for the newest one again"));
    return std::nullopt;
  }
}

void Trainer::resume() {
  const TracedPhase phase("load");
  while (const std::optional<ResumePoint> point = checkpoint_to_resume(config_, checkpoints_, mesh_, log_)) {
    const std::filesystem::path& found = point->checkpoint;
    TrainConfig before = parse_train_config(point->config, (found / "manifest.json").string());
    const std::string temperature_change = settle_temperature(before, config_, point->controlled_temperature);
    if (!temperature_change.empty() && mesh_.rank() == 0) log_.warning(temperature_change);
    require_same_model(before, config_, found.string());
    // Who names a checkpoint wants that one, and no other.
    const std::optional<DataFacts> saved_facts = point->is_newest_of_run ? restore_or_set_aside(found, before) : restore(found, before);
    if (!saved_facts) continue;
    for (const std::string& change : changes_of_data(before, *saved_facts, config_, data_facts_)) {
      if (mesh_.rank() == 0) log_.warning(change);
    }
    log_.info(concat("resumed from ", found.string(), ": step ", step(), ", ", grouped(tokens_seen_), " tokens seen"));
    return;
  }
  begin();
}

void Trainer::begin() {
  const std::string origin = config_.model.initial_weights.string();
  if (origin.empty()) {
    log_.info(concat("from scratch: drawing the initial weights with seed ", config_.run.seed));
    learner_.optimizer().initialize(static_cast<uint64_t>(config_.run.seed));
    return;
  }
  if (!initial_weights_) throw ConfigError(concat("model.initial_weights (", origin, ") is for `pimoe train`: nothing here reads it"));
  log_.info(concat("from scratch, with the weights of ", origin));
  const std::vector<StatePiece> pieces = learner_.state_pieces();
  do_together(mesh_.control(), [&] { initial_weights_(pieces); });
  learner_.optimizer().publish();
}

void Trainer::roll_back() {
  const TracedPhase phase("roll back");
  require_own_folder();  // the newest checkpoint of a folder in its place would be another run's
  const std::string diverged =
      concat("the run has diverged: its last ", divergence_.skipped_in_a_row(), " steps, up to step ", step(), ", were skipped, because ",
             kWhySkipped, " (loss ", report_.last().loss, ", gradient norm ", report_.last().gradient_norm, ")");
  saves_.collect();
  const int64_t from_step = step();
  const int64_t next_sample = data_->cursor().next_sample;
  std::optional<std::filesystem::path> newest;
  const auto restore_newest = [&] {
    Manifest manifest;
    while ((newest = checkpoints_.newest_good(&manifest))) {
      const TrainConfig before = parse_train_config(manifest.config, (*newest / "manifest.json").string());
      if (restore_or_set_aside(*newest, before)) return true;
    }
    return false;
  };
  if (rollbacks_ >= config_.train.rollbacks || !restore_newest()) {
    throw Error(concat(diverged,
                       rollbacks_ == 0 ? concat(config_.train.rollbacks == 0 ? "" : ", and there is no checkpoint to go back to")
                                       : concat(", and so it had after each of ", rollbacks_, " rollbacks"),
                       ". ", advice_against_divergence()));
  }
  data_.reset();
  const int64_t passed_over = next_sample - std::exchange(start_.next_sample, next_sample);
  open_data();
  report_.roll_back(from_step, step());
  if (mesh_.rank() == 0) cut_recordings();
  ++rollbacks_;
  rolled_back_ = concat(diverged, ". Rolled back from step ", from_step, " to ", newest->filename().string(), "; the ", passed_over,
                        " sequences read since then are passed over");
  if (mesh_.rank() == 0) log_.warning(rolled_back_);
  // Where the run is killed before its next checkpoint, it must not meet the same data again.
  saves_.save(snapshot(), /*last=*/false);
}

}  // namespace pimoe
