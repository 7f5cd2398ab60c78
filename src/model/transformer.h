#pragma once

#include "model/attention.h"
#include "model/model_config.h"
#include "moe/moe_layer.h"
#include "moe/routed_rows.h"
#include "parallel/process_mesh.h"

#include <memory>
#include <optional>
#include <vector>

namespace pimoe {

/// What backward keeps: everything, everything but the MoE parts, or each block's input alone.
enum class RecomputePolicy { kNone, kMoe, kFull };

/// The residual stream with its last addition still to be made: the next norm makes both in one pass.
struct ResidualStream {
  at::Tensor hidden;  ///< [B, S, D]
  at::Tensor update;  ///< [B, S, D]; undefined: nothing is to be added

  at::Tensor sum() const;
};

/// One pre-norm block: x + attention(norm(x)), then + feed-forward or MoE of norm.
class TransformerBlock {
 public:
  TransformerBlock(ParameterList& parameters, const std::string& name, const ModelConfig& config, int64_t layer, at::ScalarType dtype,
                   const ProcessMesh& mesh);

  struct Output {
    ResidualStream stream;                ///< its update is the block's last part
    std::optional<RoutingRecord> record;  ///< of a MoE layer
  };
  Output forward(const ResidualStream& stream, const TokenPlaces& places, const BatchContext& context, RecomputePolicy policy) const;
  /// For tokens behind others, as Attention::extend. @param stream [1, T, D]
  Output extend(const ResidualStream& stream, const CachedTokens& tokens, const KeyValuePages& kept, const BatchContext& context) const;

  bool is_moe() const { return moe_.has_value(); }
  MoELayer& moe() { return *moe_; }
  const MoELayer& moe() const { return *moe_; }

 private:
  ResidualStream attend(const ResidualStream& stream, const TokenPlaces& places) const;
  Output feed_forward(const ResidualStream& stream, const BatchContext& context, std::optional<RoutingMemo>& memo) const;

  double norm_epsilon_;
  Parameter* attention_norm_;
  std::unique_ptr<Attention> attention_;
  Parameter* feed_forward_norm_;
  std::optional<FeedForward> dense_;
  std::optional<MoELayer> moe_;
};

/// What one forward pass gives the losses.
struct Prediction {
  at::Tensor cross_entropy_sum;        ///< scalar: sum over this rank's tokens, differentiable, at least float32
  std::vector<RoutingRecord> routing;  ///< one for each MoE layer, in order
};

/// A decoder-only language model with a dense or MoE feed-forward in each block.
///
/// Constructing it declares its parameters; their values exist once ParameterBuckets has laid them out.
class Transformer {
 public:
  /// @param dtype  of weights and activations; norms, router and losses are at least float32. `mesh` must outlive the model.
  /// REQUIRES config.vocabulary > 0.
  Transformer(const ModelConfig& config, at::ScalarType dtype, const ProcessMesh& mesh);

  /// @param tokens, targets  [B, S] int64 on the model's device, B may be 0, S at most sequence_length; a target of -1 does not count
  /// @param context  token_ids and sequence_length are filled in from `tokens`; with documents a token sees its own alone
  Prediction forward(const at::Tensor& tokens, const at::Tensor& targets, const BatchContext& context,
                     RecomputePolicy policy = RecomputePolicy::kNone) const;

  /// The scores behind forward's cross-entropy, whole: for tools that look at single tokens. Call it without gradients.
  /// @param tokens, context  as for forward  @returns [B, S, V], at least float32
  at::Tensor logits(const at::Tensor& tokens, const BatchContext& context) const;

  /// For generation: computes tokens behind those whose keys and values are kept, and keeps theirs. Call it without gradients; every rank of an
  /// expert group calls it equally often, with tokens or without.
  ///
  /// Where routers go by more than the token (RouterTraits::even) it is what `logits` says for one part from the beginning alone.
  /// @param tokens       [T] int64 on the model's device, part after part; T may be 0
  /// @param most_tokens  the largest T over the ranks
  /// @param routing      gets each MoE layer's decision, in order; null: not wanted
  /// @returns [Q, V] scores of the token after each one that CachedPart::scored asks for, at least float32  @throws ShapeError
  at::Tensor extend(const at::Tensor& tokens, const std::vector<CachedPart>& parts, const KeyValueCache& cache, int64_t most_tokens,
                    std::vector<RoutingRecord>* routing = nullptr) const;
  /// The same of tokens whose places are known already, which then waits for nothing (DecodeGraphs).
  at::Tensor extend(const at::Tensor& tokens, const CachedTokens& places, const KeyValueCache& cache, BatchContext context,
                    std::vector<RoutingRecord>* routing) const;
  const RotaryTable& rotary() const { return rotary_; }

  ParameterList& parameters() { return *parameters_; }
  /// The parameters' values.
  std::vector<at::Tensor> weights() const;
  const ModelConfig& config() const { return config_; }
  at::ScalarType dtype() const { return dtype_; }

  /// @returns "", or why a pass cannot be recorded (DeviceGraph): that of the first MoE layer which has one
  std::string recording_obstacle() const;
  /// The MoE layers in order, for their routers' biases.
  std::vector<MoELayer*> moe_layers();

 private:
  /// @returns [B, S, D] after the last norm
  at::Tensor hidden_states(const at::Tensor& tokens, BatchContext context, RecomputePolicy policy,
                           std::vector<RoutingRecord>& routing) const;
  const at::Tensor& head_weight() const;
  /// @returns [..., V] at least float32
  at::Tensor scores_of(const at::Tensor& hidden) const;
  /// What linear_cross_entropy is of a quantized head. @param hidden [T, D]  @param targets [T]
  at::Tensor cross_entropy_of_scores(const at::Tensor& hidden, const at::Tensor& targets) const;

  ModelConfig config_;
  at::ScalarType dtype_;
  std::unique_ptr<ParameterList> parameters_;
  RotaryTable rotary_;
  Parameter* embedding_;
  std::vector<TransformerBlock> blocks_;
  Parameter* final_norm_;
  Matrix head_;  ///< absent when tied
};

/// One rank's share of a micro-batch, for forecasts.
struct MicroBatchShape {
  RoutedTokens tokens;
  double skew = 1.0;       ///< as in routed_rows.h
  int64_t threads = 1;     ///< of a rank, on a CPU
  bool documents = false;  ///< sequences are packed from documents: data.document_mask
};

/// Bytes of one micro-batch's forward and backward on one rank: what is kept from forward to backward, by what keeps it, and what comes on
/// top of it for a moment.
struct ActivationBytes {
  int64_t stream = 0;  ///< the residual stream: inputs of norms, or of blocks that are recomputed
  int64_t norms = 0;   ///< results of norms that what follows them keeps, and a number for each row
  int64_t attention = 0;
  int64_t dense = 0;  ///< dense feed-forward networks
  int64_t router = 0;
  int64_t dispatch = 0;  ///< plans, experts' inputs and results
  int64_t experts = 0;
  int64_t others = 0;  ///< shared and fallback networks
  int64_t loss = 0;    ///< gradients that the cross-entropy makes in forward
  int64_t batch = 0;   ///< token ids on a GPU (a CPU reads them where they are); of packed documents each token's position and angles

  int64_t layer_workspace = 0;  ///< the most that backward of one block needs, what it computes again included
  int64_t loss_workspace = 0;   ///< logits of a chunk, scaled gradients

  int64_t kept() const { return stream + norms + attention + dense + router + dispatch + experts + others + loss + batch; }
  /// The most at one time, all that is kept included.
  int64_t peak() const;
};

/// What Transformer::forward keeps for backward, as its functions save it; each layer's formula stands beside the layer.
ActivationBytes activation_bytes(const ModelConfig& config, RecomputePolicy policy, const MicroBatchShape& shape, ElementBytes bytes);

}  // namespace pimoe
