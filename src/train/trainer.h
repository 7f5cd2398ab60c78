#pragma once

#include "base/log.h"
#include "checkpoint/checkpoint_store.h"
#include "data/data_stream.h"
#include "parallel/process_mesh.h"
#include "train/checkpoint_keeper.h"
#include "train/divergence.h"
#include "train/learner.h"
#include "train/metrics.h"
#include "train/replica_check.h"
#include "train/stop_request.h"
#include "train/train_config.h"

#include <chrono>
#include <memory>
#include <optional>

namespace pimoe {

enum class TrainOutcome {
  kComplete,  ///< all steps are done
  kStopped,   ///< asked to leave: a checkpoint was saved, and the run goes on when it is started again
};

/// Trains one model: data -> forward -> backward -> optimizer -> checkpoint, on every rank of the mesh.
///
/// Every rank constructs one with the same configuration; construction and `run` are collective. All ranks make the same number of micro-steps.
class Trainer {
 public:
  /// @param mesh, log  must outlive the trainer
  /// @param stop       asks the run to save and leave; null: nothing does
  /// @throws ConfigError, DataError, CheckpointError, IoError: see their types
  Trainer(const TrainConfig& config, const ProcessMesh& mesh, Logger& log, const StopRequest* stop);
  ~Trainer();

  TrainOutcome run();

  Transformer& model() { return learner_.model(); }
  const Optimizer& optimizer() const { return learner_.optimizer(); }
  int64_t step() const { return learner_.step(); }

  /// Mean cross-entropy of a token over the validation corpus' first validation_batches global batches. Collective.
  double validate() const;

 private:
  // trainer_state.cpp
  void resume();
  /// What a checkpoint holds: live state, to be written or to be filled.
  Snapshot state();
  /// The same, with the proof that a load is judged by. Collective.
  Snapshot snapshot();
  /// Sets everything that a checkpoint holds, and proves it. Collective. @param before  the configuration in it
  /// @throws CheckpointError, IoError
  void restore(const std::filesystem::path& checkpoint, const TrainConfig& before);
  /// After too many skipped steps in a row: goes on from the newest checkpoint with data that was not read yet. @throws Error where there is
  /// none, or that was tried often enough
  void roll_back();

  void open_data();
  StepSums accumulate_gradients();
  /// Writes what routers decided in the step, if it is due; what cannot be written on a rank is an alarm of the record. Collective.
  void record_routing(StepRecord& record);
  /// Removes recordings of steps that are now done again; rank 0 alone.
  void cut_recordings();
  void add_speed(StepRecord& record, double seconds) const;
  /// What the ranks agree on after a step.
  struct Agreement {
    bool stop = false;          ///< a rank was asked to stop
    bool save_is_over = false;  ///< all ranks have written their part of the save beside training
    bool retry_is_due = false;  ///< of a save that failed
  };
  Agreement agree() const;
  void report(StepRecord& record);
  void announce() const;
  void summarize() const;
  bool due(int64_t every_steps) const;
  /// Whether replicas are compared before the update of a step, counted from 1.
  bool is_verified(int64_t step) const { return verify_every_ > 0 && step % verify_every_ == 0; }
  bool is_last() const { return step() == config_.train.steps; }
  /// Compares the ranks' copies. @throws Error, the same on every rank, naming ranks and tensors
  void verify_replicas();
  /// Refuses weights that are not finite: a checkpoint of them would push out a good one. Collective.
  /// @param last  the run ends after it
  void save(bool last);

  TrainConfig config_;
  const ProcessMesh& mesh_;
  Logger& log_;
  const StopRequest* stop_;

  Learner learner_;
  ReplicaCheck replicas_;
  CheckpointStore checkpoints_;
  CheckpointKeeper saves_;
  double peak_flops_;     ///< of all devices together; 0 where unknown
  int64_t step_tokens_;   ///< of a step, over all ranks
  int64_t verify_every_;  ///< steps; 0: never

  int64_t tokens_seen_ = 0;
  Divergence divergence_;
  DataCursor start_;
  std::unique_ptr<DataStream> data_;
  std::optional<TokenFile> validation_;
  std::unique_ptr<MetricsFile> metrics_;  ///< rank 0 alone
  std::string metrics_trouble_;           ///< of the last record; "": it is written
  std::optional<RoutingLog> routing_log_;

  int64_t first_step_ = 0;  ///< of this process
  std::chrono::steady_clock::time_point started_;
  std::optional<StepRecord> first_record_;
  std::optional<StepRecord> last_record_;
  std::optional<double> validation_loss_;
  int64_t rollbacks_ = 0;    ///< since the last new checkpoint
  std::string rolled_back_;  ///< what the next record has to tell of one
};

}  // namespace pimoe
