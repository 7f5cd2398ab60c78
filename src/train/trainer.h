#pragma once

#include "base/log.h"
#include "checkpoint/checkpoint_store.h"
#include "data/data_stream.h"
#include "model/transformer.h"
#include "moe/adaptive_control.h"
#include "parallel/gradient_reducer.h"
#include "parallel/parameter_buckets.h"
#include "parallel/process_mesh.h"
#include "train/checkpoint_keeper.h"
#include "train/loss_scaler.h"
#include "train/metrics.h"
#include "train/optimizer.h"
#include "train/replica_check.h"
#include "train/step_sums.h"
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

/// The run's compute dtype. For `auto` what the slowest rank's device is fast at: ranks of different machines must not train in different
/// dtypes. Collective over the world.
at::ScalarType agreed_dtype(Precision precision, const ProcessMesh& mesh);

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

  Transformer& model() { return model_; }
  const Optimizer& optimizer() const { return optimizer_; }
  int64_t step() const { return step_; }

  /// Mean cross-entropy of a token over the validation corpus' first validation_batches global batches. Collective.
  double validate() const;

 private:
  void resume();
  Snapshot snapshot();
  StepSums accumulate_gradients();
  /// The loss-free biases after a step. @param load  [N, E] of the step's global batch
  void update_biases(const at::Tensor& load);
  StepRecord finish_record(const StepSums& sums, double gradient_norm, double learning_rate, bool skipped);
  void add_speed(StepRecord& record, double seconds) const;
  /// What the ranks agree on after a step.
  struct Agreement {
    bool stop = false;            ///< a rank was asked to stop
    bool save_is_over = false;    ///< all ranks have written their part of the save beside training
    bool retry_is_due = false;    ///< of a save that failed
  };
  Agreement agree() const;
  /// What balances the experts in the coming step: the configuration's settings, or what adaptive control has made of them.
  const AdaptiveSettings& balancing() const { return adaptive_.settings(); }
  /// Shows adaptive control the step that was, and tells of what it does about it. The same on every rank.
  void adapt(StepRecord& record);
  void report(StepRecord& record);
  void announce() const;
  void summarize() const;
  bool due(int64_t every_steps) const;
  /// Whether replicas are compared before the update of a step, counted from 1.
  bool is_verified(int64_t step) const { return config_.train.verify_every > 0 && step % config_.train.verify_every == 0; }
  /// The last step's loss or gradients were not finite, and not because float16's scale is still falling: that spoils gradients alone.
  bool is_diverging() const { return bad_in_a_row_ > 0 && (!loss_is_finite_ || loss_scaler_.scale <= 1.0); }
  /// Refuses weights that are not finite: a checkpoint of them would push out a good one. Collective.
  /// Compares the ranks' copies in steps that are due. @throws Error, the same on every rank, naming ranks and tensors
  void verify_replicas();
  /// @param last  the run ends after it
  void save(bool last);

  TrainConfig config_;
  const ProcessMesh& mesh_;
  Logger& log_;
  const StopRequest* stop_;

  Transformer model_;
  std::vector<MoELayer*> moe_layers_;
  AdaptiveControl adaptive_;
  ParameterBuckets buckets_;
  Optimizer optimizer_;
  GradientReducer reducer_;
  ReplicaCheck replicas_;
  CheckpointStore checkpoints_;
  CheckpointKeeper saves_;
  double peak_flops_;    ///< of all devices together; 0 where unknown
  int64_t step_tokens_;  ///< of a step, over all ranks
  LossScaler loss_scaler_;

  int64_t step_ = 0;
  int64_t tokens_seen_ = 0;
  int64_t bad_in_a_row_ = 0;  ///< steps whose loss or gradients were not finite
  bool loss_is_finite_ = true;
  DataCursor start_;
  std::unique_ptr<DataStream> data_;
  std::optional<TokenFile> validation_;
  std::unique_ptr<MetricsFile> metrics_;  ///< rank 0 alone
  std::optional<RoutingLog> routing_log_;
  std::optional<RoutingReplay> replay_;

  int64_t first_step_ = 0;  ///< of this process
  std::chrono::steady_clock::time_point started_;
  std::optional<StepRecord> first_record_;
  std::optional<StepRecord> last_record_;
  std::optional<double> validation_loss_;
};

}  // namespace pimoe
