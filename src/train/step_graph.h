#pragma once

#include "parallel/device_graph.h"
#include "train/gradient_step.h"
#include "train/train_config.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// A step's forward and backward passes as one CUDA graph. A small model is bound by the host, which needs some ten microseconds to start each of a
/// thousand kernels; a graph starts them all at once.
///
/// The first steps run as they always do, and ready what libraries set up at their first call. Then one is recorded, and the following ones are
/// replays of it on their own tokens: the same kernels on the same numbers. When something that the recorded step had as a constant changes (a
/// coefficient that adaptive control moves, float16's loss scale), steps run as usual again, until it has stayed as it is for a while.
class StepGraph {
 public:
  /// @returns "", or why no step of `model` can be recorded
  static std::string obstacle(const Transformer& model, const ProcessMesh& mesh);
  /// Whether starting a step's kernels one by one takes the host longer than their work the device, by estimate. Else a graph only takes memory.
  static bool pays(const TrainConfig& config, const ProcessMesh& mesh);

  /// All three must outlive it.
  StepGraph(const Transformer& model, GradientReducer& reducer, const ProcessMesh& mesh);
  ~StepGraph();

  /// As gradient_step.h's, but that the sums which it returns are overwritten by its next call.
  StepSums accumulate_gradients(const std::vector<MicroBatch>& batches, const StepTerms& terms, const PredictionObserver& seen);

  /// @returns why steps are not recorded although no obstacle was known, once; "" where there is nothing to say
  std::string take_trouble();

 private:
  struct Recorded;
  /// Counts the steps that were alike in all that a recorded one has as a constant, and forgets what was recorded where this one is not.
  void note(const std::vector<MicroBatch>& batches, const StepTerms& terms);
  bool can_replay(const PredictionObserver& seen);
  void record();
  StepSums replay(const std::vector<MicroBatch>& batches);

  const Transformer& model_;
  GradientReducer& reducer_;
  const ProcessMesh& mesh_;
  SideStream stream_;               ///< recording needs another stream than the default one
  std::vector<MicroBatch> inputs_;  ///< of the last step, for their shapes; of a recorded one, what it reads, on the device
  std::optional<StepTerms> terms_;
  int64_t steady_steps_ = 0;
  std::unique_ptr<Recorded> recorded_;
  std::string trouble_;
  bool is_said_ = false;
};

}  // namespace pimoe
