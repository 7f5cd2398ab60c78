#pragma once

#include "bench/gpu_timeline.h"
#include "bench/measurement.h"
#include "data/data_stream.h"
#include "train/learner.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

class Bench;

/// The training step of a configuration on random tokens: Learner's, as Trainer makes it, without data stream and checkpoints.
class TrainingStep {
 public:
  /// The weights are drawn with run.seed. Collective.
  explicit TrainingStep(const Bench& bench);

  /// One step, until the device is done with it. Marks the parts forward, backward, gradients (sums that are waited for) and update. Collective.
  StepRecord run(Parts& parts, const PredictionObserver& seen = nullptr);

  Learner& learner() { return learner_; }
  int64_t tokens() const { return tokens_; }  ///< of a step, over all ranks

 private:
  const ProcessMesh& mesh_;
  int64_t tokens_;
  Learner learner_;
  std::vector<std::vector<MicroBatch>> steps_;  ///< this rank's, taken in turn
};

/// A step's micro-batches of this rank, each row one token longer than the model's sequences: it predicts the next.
/// @param rows  asked for `count` rows of the step's global batch from the `first` on
std::vector<MicroBatch> micro_batches_of(const TrainConfig& config, const ProcessMesh& mesh,
                                         const std::function<at::Tensor(int64_t first, int64_t count)>& rows);

/// What a step sends in one group of ranks.
struct GroupTraffic {
  std::string group;
  int64_t bytes = 0;        ///< of all ranks together
  int64_t messages = 0;     ///< of all ranks together
  int64_t collectives = 0;  ///< of a rank, the most
};

/// What was measured of it; memory is the fullest rank's.
struct StepMeasurement {
  Measurement measured;
  int64_t tokens = 0;      ///< of a step, over all ranks
  int64_t kept_bytes = 0;  ///< for backward of a micro-batch
  int64_t peak_bytes = 0;
  int64_t state_bytes = 0;            ///< weights, gradients and optimizer
  double first_loss = 0.0;            ///< of the first warm-up, from fresh weights
  int64_t skipped_steps = 0;          ///< measured ones whose update was left out: loss or gradients were not finite
  std::optional<GpuTimeline> gpu;     ///< this rank's, of one more step
  double maxvio = 0.0;                ///< of the last step's layer with the most; 0 in a dense model
  std::vector<GroupTraffic> traffic;  ///< of groups of more than one rank

  double tokens_per_second() const { return static_cast<double>(tokens) / measured.seconds.median; }
};

/// Collective.
StepMeasurement measure_step(Bench& bench);

}  // namespace pimoe
