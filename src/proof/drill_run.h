#pragma once

#include "proof/drills.h"
#include "proof/observed_model.h"

#include <functional>
#include <optional>

namespace pimoe {

/// What a drill does with a model.
struct DrillScript {
  TrainConfig config;
  int64_t steps = 3;
  std::function<GlobalBatch(int64_t step)> batch;                    ///< the same on every rank
  std::function<void(ObservedModel& model, int64_t step)> prepare;   ///< before a step, on every rank; null: nothing
  std::function<void(ObservedModel& model, int64_t step)> clean_up;  ///< after a step; null: nothing
  bool whole = false;                                                ///< observe gradients and logits too
  /// Steps that float16 skips because its loss scale is too large still do not count: the scale halves, and a further one is made.
  bool waits_for_loss_scale = false;
};

/// The steps of one model. Tensors on rank 0 of its mesh alone.
struct DrillSteps {
  std::vector<ObservedStep> steps;
  int64_t skipped_for_scale = 0;      ///< of these; see DrillScript
  std::vector<NamedTensors> masters;  ///< after each step
};

/// A drill under way: runs its script on the mesh and on one rank, and collects what held. @throws ConfigError for a model without MoE layers
class DrillRun {
 public:
  explicit DrillRun(const DrillPlace& place);

  /// Starts from the configuration with what no drill wants changed; see notes. The batch is the corpus' first, of at most 8 sequences.
  DrillScript script();
  /// Lets the loss-free bias steer the router: kinds that do not look at it become softmax.
  void make_steerable(DrillScript& script);
  void note(const std::string& line) { outcome_.notes.push_back(line); }

  /// Collective.
  DrillSteps on_mesh(const DrillScript& script) const;
  /// On rank 0; nothing on the others. Micro-steps are those of `script`'s batches.
  DrillSteps on_one_rank(const DrillScript& script) const;

  /// Rank 0 alone notes; the others' calls do nothing.
  void expect(bool held, const std::string& what);
  /// Losses, norms and weights are finite, and no step was skipped, but for those that the script lets float16 skip.
  void expect_finite(const DrillSteps& run);
  /// Each layer's loads add up to K slots of every token, and none was dropped where nothing may drop.
  void expect_slots_conserved(const DrillScript& script, const DrillSteps& run);
  /// Loss and gradient norm of each step are those of one rank. Left out, with a note, where the configuration changes with the layout.
  /// @param factor  of the precision's tolerance
  void expect_same_as_one_rank(const DrillScript& script, const DrillSteps& run, double factor = 1.0);
  /// Every layer's expert(s) have one slot of every token in this step.
  void expect_full(const DrillScript& script, const DrillSteps& run, int64_t step, const std::vector<int64_t>& experts,
                   const std::string& what);

  const DrillPlace& place() const { return place_; }
  double tolerance() const { return tolerance_; }
  at::ScalarType dtype() const { return dtype_; }
  DrillOutcome outcome() const { return outcome_; }

 private:
  DrillSteps run(const DrillScript& script, const ProcessMesh& mesh) const;

  const DrillPlace& place_;
  at::ScalarType dtype_;
  double tolerance_;
  DrillOutcome outcome_;
};

/// Sets the loss-free bias of every router. @param experts, pull  these get `pull`, all others 0
void set_biases(ObservedModel& model, const std::vector<int64_t>& experts, double pull);

}  // namespace pimoe
