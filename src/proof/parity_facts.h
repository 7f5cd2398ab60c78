#pragma once

#include "proof/observed_model.h"
#include "proof/parity_reference.h"
#include "proof/parity_report.h"

#include <string>
#include <vector>

namespace pimoe {

/// What all runs of one comparison have in common.
struct ParityCase {
  TrainConfig config;
  GlobalBatch batch;
  double tolerance = 0.0;
  std::vector<std::string> layers;  ///< names of the routers of the MoE layers
};

/// The weights before the step, whole.
struct StartingWeights {
  NamedTensors masters;
  NamedTensors computing;           ///< what products see of them: in low precision their cast
  std::vector<std::string> decays;  ///< parameters that weight decay applies to
};

/// @param model  of a mesh of one rank, before its step
StartingWeights starting_weights(ObservedModel& model);

/// @param after  the master weights after the step
Facts facts_of(const ParityCase& given, const ObservedStep& seen, const NamedTensors& after);

/// The loop's step, and what AdamW's first step makes of its gradients.
/// @source arXiv 1711.05101, algorithm 2, t = 1: both moments are fresh, so that after their bias corrections they are g and g^2
Facts facts_of(const ParityCase& given, const ReferenceStep& step, const StartingWeights& weights);

/// The loop's input for these decisions.
ReferenceInput reference_input(const ParityCase& given, const StartingWeights& weights, const at::Tensor& experts);

/// Decisions as facts: the chosen experts' scores over the best ones', 1 where they are the best. @param step  which judged them; null: 1
Facts decisions(const ParityCase& given, const ReferenceStep* step);

}  // namespace pimoe
