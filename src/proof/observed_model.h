#pragma once

#include "data/data_stream.h"
#include "train/learner.h"
#include "train/train_config.h"

#include <map>
#include <string>
#include <vector>

namespace pimoe {

/// Logical tensors by name, whole, float64, on the host.
using NamedTensors = std::map<std::string, at::Tensor>;

/// One step's sequences, the same on every rank, and how they are cut into micro-steps.
struct GlobalBatch {
  at::Tensor rows;             ///< [G, S + 1] int64 on the host
  at::Tensor begins_document;  ///< [G, S + 1] bool: whether this token does, but for a row's first; undefined without data.document_mask
  std::vector<int64_t> micro_steps;  ///< sequences of each, over all ranks; their sum is G

  int64_t sequences() const { return rows.size(0); }
  int64_t length() const { return rows.size(1) - 1; }
  int64_t tokens() const { return sequences() * length(); }
  /// @returns [G, S]: the token after each position, -1 where that begins a document
  at::Tensor targets() const;
};

/// Sequences [first, first + sequences) of what training would read: the corpus' where one is configured, else ids, and where documents begin,
/// drawn at random.
/// @param length  S of these sequences, at most model.sequence_length
/// @param ranks   whose StepPlan cuts them into micro-steps
/// @throws DataError for a damaged or a foreign corpus
GlobalBatch read_batch(const TrainConfig& config, int64_t first, int64_t sequences, int64_t length, int ranks);

/// What is left of one training step for whoever compares. Tensors are whole, on the host, on rank 0 alone.
struct ObservedStep {
  StepRecord record;
  double clip_factor = 1.0;  ///< as the optimizer applied it
  at::Tensor logits;         ///< [G S, V] float64; undefined unless asked for
  at::Tensor experts;        ///< [N, G S, K] int64, what each layer's router chose (K is E in expert choice, -1 where none)
  at::Tensor gates;          ///< [N, G S, K] float64
  NamedTensors gradients;    ///< before clipping; empty unless asked for
};

/// A model in training whose every step can be looked into: the step is Trainer's (train/learner.h), without data stream, checkpoints and run
/// folder.
class ObservedModel {
 public:
  /// The weights are drawn with run.seed, as for training. `mesh` must outlive the model. Collective.
  ObservedModel(const TrainConfig& config, at::ScalarType dtype, const ProcessMesh& mesh);

  /// One training step. Collective.
  /// @param whole  gather logits and gradients too: as much host memory on rank 0 as the model has in float64
  ObservedStep step(const GlobalBatch& batch, bool whole);

  /// The master weights, whole, on rank 0. Collective.
  NamedTensors masters();

  Transformer& model() { return learner_.model(); }
  const ProcessMesh& mesh() const { return mesh_; }

 private:
  using Stretch = std::pair<Piece, at::Tensor>;  ///< a piece of a logical tensor, and its values, flat
  std::vector<MicroBatch> share_of(const GlobalBatch& batch) const;
  /// Every logical tensor out of the pieces that the ranks hold, each element held by one rank. @returns nothing above rank 0
  NamedTensors gathered(const std::vector<Stretch>& stretches);

  TrainConfig config_;
  const ProcessMesh& mesh_;
  Learner learner_;
};

}  // namespace pimoe
