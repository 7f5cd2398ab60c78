#pragma once

#include "base/log.h"
#include "checkpoint/checkpoint_store.h"
#include "data/data_stream.h"
#include "parallel/process_mesh.h"
#include "train/checkpoint_keeper.h"
#include "train/data_facts.h"
#include "train/divergence.h"
#include "train/initial_weights.h"
#include "train/learner.h"
#include "train/replica_check.h"
#include "train/run_events.h"
#include "train/run_lock.h"
#include "train/run_report.h"
#include "train/step_profile.h"
#include "train/stop_request.h"
#include "train/train_config.h"
#include "train/validation.h"

#include <memory>
#include <optional>

namespace pimoe {

enum class TrainOutcome {
  kComplete,        ///< all steps are done
  kStopped,         ///< asked to leave: a checkpoint was saved, and the run goes on when it is started again
  kStoppedByAlert,  ///< likewise, by one of monitor.alerts: somebody should look first
};

/// Trains one model: data -> forward -> backward -> optimizer -> checkpoint, on every rank of the mesh.
///
/// Every rank constructs one with the same configuration; construction and `run` are collective. All ranks make the same number of micro-steps.
/// The run folder belongs to it alone: whoever constructs it holds the folder's lock. Where the folder is taken away meanwhile, it ends.
class Trainer {
 public:
  /// @param mesh, log  must outlive the trainer
  /// @param stop       asks the run to save and leave; null: nothing does
  /// @param lock       of the run folder, outlives the trainer; null: nobody takes the folder away
  /// @param weights    fills those of a run that begins; null: they are drawn. REQUIRED where the configuration has model.initial_weights
  /// @throws ConfigError        what the configuration asks for does not fit the mesh, the checkpoint's model or recorded routing
  /// @throws DataError          a corpus or tokenizer is missing, damaged or too short
  /// @throws CheckpointError    none of the run's checkpoints is good, or the loaded model is not the one that was saved
  /// @throws SaveError, IoError the run folder cannot be written
  /// @cost memory of the model and its optimizer; a resume reads the checkpoint twice (digests, then what is wanted) and does one forward pass
  Trainer(const TrainConfig& config, const ProcessMesh& mesh, Logger& log, const StopRequest* stop, RunLock* lock = nullptr,
          InitialWeights weights = nullptr);
  ~Trainer();

  /// Does the steps that are left: data -> forward -> backward -> update -> report -> save. Collective; every rank returns the same, and throws the same.
  /// @throws Error       the run has diverged, or memory changed by itself: nothing of that was saved
  /// @throws ConfigError the run folder was removed, moved away or replaced: nothing more is written there
  /// @throws SaveError   a checkpoint could not be written, and checkpoint.on_error is stop, or it was the last one
  /// @throws DataError, IoError, CommError
  /// @cost each step: one synchronisation with the device at its end, and one collective of five numbers beside those of training
  TrainOutcome run();

  /// Before run: these steps are to be profiled. @throws UsageError where the run cannot give what is asked for
  void profile(const ProfileRequest& request) { profile_.emplace(request, config_.run.directory, mesh_, log_); }

  Transformer& model() { return learner_.model(); }
  const Optimizer& optimizer() const { return learner_.optimizer(); }
  int64_t step() const { return learner_.step(); }

  /// Mean cross-entropy of a token over the validation corpus' first validation_batches global batches. REQUIRES data.validation. Collective.
  /// @returns nothing where a rank is asked to stop meanwhile: it may take longer than the time that is left
  /// @throws DataError @cost as many forward passes, and one collective of a number for each micro-step of them
  std::optional<double> validate() const;

 private:
  ValidationPlan validation_plan() const;
  // trainer_state.cpp
  void resume();
  /// From scratch: drawn weights, or those of model.initial_weights. Collective.
  void begin();
  /// What a checkpoint holds: live state, to be written or to be filled.
  Snapshot state();
  /// The same, with the proof that a load is judged by. Collective.
  Snapshot snapshot();
  /// Sets everything that a checkpoint holds, and proves it. Collective. @param before  the configuration in it
  /// @throws DamageError where its files are not what was verified, CheckpointError, IoError: the same on every rank
  /// @returns the counters in it
  std::map<std::string, int64_t> restore(const std::filesystem::path& checkpoint, const TrainConfig& before);
  /// As restore; a checkpoint that is damaged only now, between its verification and this, is set aside. @returns nothing then
  /// @throws what it is told of where it cannot be set aside
  std::optional<std::map<std::string, int64_t>> restore_or_set_aside(const std::filesystem::path& checkpoint, const TrainConfig& before);
  /// After too many skipped steps in a row: goes on from the newest checkpoint with data that was not read yet. @throws Error where there is
  /// none, or that was tried often enough
  void roll_back();

  void open_data();
  StepSums accumulate_gradients();
  std::vector<MicroBatch> next_batches();
  /// Writes what routers decided in the step, if it is due; what cannot be written on a rank is an alarm of the record. Collective.
  void record_routing(StepRecord& record);
  /// RUN/config.yaml; rank 0 alone. A full disk is a warning where the run has checkpoints. @throws IoError
  void write_config() const;
  /// Removes recordings of steps that are now done again; rank 0 alone.
  void cut_recordings();
  /// What the ranks agree on after a step.
  struct Agreement {
    bool stop = false;            ///< a rank was asked to stop, or an alert says so
    bool alert_stops = false;     ///< the latter
    bool save_is_over = false;    ///< all ranks have written their part of the save beside training
    bool retry_is_due = false;    ///< of a save that failed
    bool folder_is_lost = false;  ///< the run folder is not the one that was locked
    bool state_changed = false;   ///< an update found masters or moments that were not as the one before had left them
  };
  Agreement agree();
  /// Why the run folder is no longer this run's; "" on ranks that do not hold it, and while it is.
  std::string folder_trouble() { return lock_ == nullptr ? "" : lock_->trouble(); }
  /// @throws ConfigError, on every rank, where the run folder is no longer this run's. Collective.
  void require_own_folder();
  /// Whether any rank was asked to stop. Collective.
  bool is_asked_to_stop() const;
  /// Collective.
  bool on_any_rank(bool here) const;
  /// Adds to a step's record what happened beside it, judges it, and tells all of it.
  void report(StepRecord& record);
  /// Whether a checkpoint of the step that was just done is to be written: asked to leave, the last one, one that is due or tried again (at the last
  /// step whatever the clock says); never of a state that has diverged.
  bool is_save_due(const Agreement& agreed) const;
  /// The end: the last save is taken in, and what could not be written before. @throws Error if the run ended diverged
  TrainOutcome finish();
  bool due(int64_t every_steps) const;
  /// Whether replicas are compared before the update of a step, counted from 1.
  bool is_verified(int64_t step) const { return verify_every_ > 0 && step % verify_every_ == 0; }
  bool is_last() const { return step() == config_.train.steps; }
  /// Looks for memory that changed by itself. Collective. @param when  for the message
  /// @throws Error, the same on every rank, naming ranks and tensors
  void verify_memory(const std::string& when);
  /// Refuses masters and moments that changed by themselves, and weights that are not finite: a checkpoint of them would push out a good one. Collective.
  /// @param last  the run ends after it
  void save(bool last);

  TrainConfig config_;
  const ProcessMesh& mesh_;
  Logger& log_;
  const StopRequest* stop_;
  RunLock* lock_;
  InitialWeights initial_weights_;

  std::unique_ptr<RunEvents> events_;  ///< rank 0 alone

  Learner learner_;
  ReplicaCheck replicas_;
  CheckpointStore checkpoints_;
  CheckpointKeeper saves_;
  RunReport report_;
  int64_t step_tokens_;                    ///< of the step that is made, over all ranks; what fills up rows is none
  std::optional<int64_t> learned_tokens_;  ///< of those, whose prediction counts; nothing: all
  int64_t verify_every_;                   ///< steps; 0: never

  std::optional<StepProfile> profile_;

  int64_t tokens_seen_ = 0;
  Divergence divergence_;
  DataCursor start_;
  std::unique_ptr<DataStream> data_;
  std::optional<TokenFile> validation_;
  DataFacts data_facts_;
  std::optional<RoutingLog> routing_log_;

  bool has_looked_again_ = false;  ///< for the newest checkpoint, where one that had been read whole could not be read at its load

  int64_t rollbacks_ = 0;    ///< since the last checkpoint of a step that was taken
  std::string rolled_back_;  ///< what the next record has to tell of one
};

}  // namespace pimoe
