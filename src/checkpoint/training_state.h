#pragma once

/// What a training checkpoint holds: the kinds of its tensors, and the keys of its numbers and counters. The format itself (snapshot.h, manifest.h)
/// knows none of them and carries any.
///
/// *Required* is what a run that goes on, or a model that is loaded, cannot do without: a checkpoint that lacks it is refused. *Optional* is what may
/// be missing, because another configuration or an older version wrote the checkpoint: it is then left as it begins. docs/checkpoint.md says how a
/// new one is added.

#include <string>

namespace pimoe {

/// Kinds of tensors. A parameter has one of each kind but `state`, of the parameter's name and global shape.
namespace state_kind {
inline constexpr const char* kMaster = "master";            ///< required: the weight, at least float32; the compute weight is its cast
inline constexpr const char* kFirstMoment = "exp_avg";      ///< required to train on: AdamW's mean of gradients
inline constexpr const char* kSecondMoment = "exp_avg_sq";  ///< required to train on: AdamW's mean of squared gradients
inline constexpr const char* kState = "state";  ///< required: of no parameter. "layers.N.moe.router.bias", [E], loss-free balancing's
}  // namespace state_kind

/// Numbers: float64, bit for bit.
namespace state_number {
inline constexpr const char* kLossScale = "loss_scale";  ///< required to train on: that gradients were multiplied by; float16's alone moves
inline constexpr const char* kProofLoss =
    "proof_loss";  ///< optional: of the made-up sequence of train/load_proof.h; with it the counters kProof...
// Optional, written out where their owners list them once for both ways: "adaptive. ..." (moe/adaptive_control.cpp) and "router_watch. ..."
// (moe/router_watch.cpp), of each all or none, and "spikes. ..." (train/spikes.cpp).
}  // namespace state_number

/// Counters: whole numbers. All but the proof's, kNotFiniteInARow and "data. ..." are required to train on. The latter, optional each, tell the data
/// that the run was reading from others of the same name (train/data_facts.h).
namespace state_counter {
inline constexpr const char* kTokensSeen = "tokens_seen";               ///< over all ranks since the first step
inline constexpr const char* kNextSample = "next_sample";               ///< global index of the first sequence that was not read
inline constexpr const char* kOptimizerSteps = "optimizer_steps";       ///< steps taken, without skipped ones: AdamW's bias correction
inline constexpr const char* kSkippedInARow = "skipped_in_a_row";       ///< steps, up to this one, whatever the reason (train/divergence.h)
inline constexpr const char* kNotFiniteInARow = "not_finite_in_a_row";  ///< optional: of these; where it is missing, all
inline constexpr const char* kLossScaleDynamic = "loss_scale_dynamic";  ///< 1: the scale moves (float16); 0: it is 1 for good
inline constexpr const char* kLossScaleGoodSteps = "loss_scale_good_steps";  ///< finite ones since the scale last moved
inline constexpr const char* kProofBytes = "proof_element_bytes";            ///< of the dtype that the proof's loss was computed in
inline constexpr const char* kProofRanks = "proof_ranks";                    ///< and the layout
inline constexpr const char* kProofExpertParallel = "proof_expert_parallel";
}  // namespace state_counter

/// @returns whether a logical tensor ("master/layers.0.moe.experts.down", with its kind or without) has one entry for each expert along its first
///          dimension, which expert parallelism shares out: by its name, which all of MoELayer's expert banks bear
inline bool is_expert_tensor(const std::string& name) { return name.find(".experts.") != std::string::npos; }

}  // namespace pimoe
