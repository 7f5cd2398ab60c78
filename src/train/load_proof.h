#pragma once

#include "checkpoint/snapshot.h"
#include "model/transformer.h"
#include "parallel/process_mesh.h"
#include "train/train_config.h"

#include <string>

namespace pimoe {

/// Checkpoints hold the loss that the model had of one made-up sequence; a model that was loaded from one must find the same loss. Digests say
/// that the bytes are those that were written; this says that they mean the same: every tensor in its place, and every expert with its router.
///
/// The sequence: min(S, 256) + 1 ids, drawn from the vocabulary by a fixed key. Each expert group computes it, its first rank alone having tokens,
/// as in validation (no jitter).

/// Adds the loss to `numbers` and what it was computed with to `counters`; nothing if it is not finite. Collective.
/// @cost one forward pass of one sequence
void add_load_proof(Snapshot& snapshot, const Transformer& model, const ProcessMesh& mesh);

/// What the log is told of a load.
struct LoadProof {
  std::string said;
  bool suspicious;  ///< more than rounding apart: for a person to judge
};

/// @param saved    of the checkpoint, numbers and counters filled
/// @param before   the configuration in it
/// @param config   of the model that was loaded
/// @returns one line for the log. Where the two losses need not agree it says why, and nothing is computed: capacity or rank limits differ, or
///          go by ranks of which there are now more or fewer; the checkpoint holds none. In half precision, where the losses are more than 2e-4
///          of the loss apart, it is suspicious. Collective; `suspicious` is the same on every rank.
/// @throws CheckpointError where they differ by more than 1e-9 (float64), 1e-4 (float32) or 3e-2 (half precisions) of the loss
LoadProof prove_loaded(const Snapshot& saved, const TrainConfig& before, const Transformer& model, const TrainConfig& config,
                       const ProcessMesh& mesh);

}  // namespace pimoe
