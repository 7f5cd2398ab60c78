#include "model/transformer.h"

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"
#include "moe/moe_memory.h"
#include "moe/recompute.h"
#include "ops/cross_entropy.h"
#include "ops/kept_layouts.h"
#include "ops/rms_norm.h"
#include "ops/trace_range.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

/// What adds to the residual stream begins smaller, so that the stream's variance does not grow with depth.
/// @source GPT-2: scaled by 1 / sqrt(number of additions).
InitialDeviation deviation_of(const ModelConfig& config) {
  return {config.initial_deviation, config.initial_deviation / std::sqrt(2.0 * static_cast<double>(config.layers))};
}

}  // namespace

TransformerBlock::TransformerBlock(ParameterList& parameters, const std::string& name, const ModelConfig& config, int64_t layer,
                                   at::ScalarType dtype, const ProcessMesh& mesh)
    : norm_epsilon_(config.norm_epsilon),
      attention_norm_(&declare_norm(parameters, name + ".attention_norm", config.width, dtype)),
      attention_(make_attention(parameters, name + ".attention", config, dtype, deviation_of(config))),
      feed_forward_norm_(&declare_norm(parameters, name + ".feed_forward_norm", config.width, dtype)) {
  if (config.is_moe_layer(layer)) {
    moe_.emplace(parameters, name + ".moe", config.moe, config.width, config.vocabulary, dtype, deviation_of(config), mesh,
                 config.quantization);
  } else {
    dense_.emplace(parameters, name + ".feed_forward", config.width, config.feed_forward_width, dtype, deviation_of(config),
                   config.quantization.of(config.quantization.dense));
  }
}

at::Tensor ResidualStream::sum() const { return update.defined() ? hidden + update : hidden; }

ResidualStream TransformerBlock::attend(const ResidualStream& stream, const TokenPlaces& places) const {
  const TraceRange range("attention");
  ResidualNorm norm = residual_rms_norm(stream.hidden, stream.update, attention_norm_->value, norm_epsilon_);
  return {std::move(norm.sum), attention_->forward(norm.normed, places)};
}

TransformerBlock::Output TransformerBlock::feed_forward(const ResidualStream& stream, const BatchContext& context,
                                                        std::optional<RoutingMemo>& memo) const {
  ResidualNorm norm = residual_rms_norm(stream.hidden, stream.update, feed_forward_norm_->value, norm_epsilon_);
  const at::Tensor tokens = norm.normed.view({-1, norm.sum.size(-1)});
  if (dense_) {
    const TraceRange range("feed forward");
    return {{norm.sum, dense_->forward(tokens).view_as(norm.sum)}, std::nullopt};
  }
  MoEOutput output = moe_->forward(tokens, context, memo);
  return {{norm.sum, output.tokens.view_as(norm.sum)}, std::move(output.record)};
}

TransformerBlock::Output TransformerBlock::forward(const ResidualStream& stream, const TokenPlaces& places, const BatchContext& context,
                                                   RecomputePolicy policy) const {
  const bool whole = policy == RecomputePolicy::kFull;
  const bool part = whole || (policy == RecomputePolicy::kMoe && is_moe());
  const bool learns =
      at::GradMode::is_enabled() && (stream.hidden.requires_grad() || (stream.update.defined() && stream.update.requires_grad()));
  if (!part || !learns) {
    std::optional<RoutingMemo> memo;
    return feed_forward(attend(stream, places), context, memo);
  }

  // The first pass through the region fills the memo; the second takes the same decisions from it. What carries no gradient (load,
  // confidence) leaves by the side, once; the rest leaves as the region's outputs, behind the update and, of a whole block, the stream.
  auto memo = std::make_shared<std::optional<RoutingMemo>>();
  auto record = std::make_shared<std::optional<RoutingRecord>>();
  const Region region = [this, whole, places, context, memo, record](const std::vector<at::Tensor>& inputs) -> std::vector<at::Tensor> {
    const ResidualStream into{inputs[0], {}};
    Output output = feed_forward(whole ? attend(into, places) : into, context, *memo);
    std::vector<at::Tensor> outputs = {output.stream.update};
    if (whole) outputs.push_back(output.stream.hidden);
    if (!output.record) return outputs;
    for (const at::Tensor* sum : differentiable(*output.record)) {
      if (sum->defined()) outputs.push_back(*sum);
    }
    if (!record->has_value()) *record = std::move(output.record);
    return outputs;
  };
  // One tensor is kept for the region: the addition before it is made now.
  const at::Tensor before = whole ? stream.sum() : attend(stream, places).sum();
  const std::vector<at::Tensor> outputs = recompute(region, {before});
  const ResidualStream after{whole ? outputs[1] : before, outputs[0]};
  if (!record->has_value()) return {after, std::nullopt};
  RoutingRecord result = **record;
  auto output = outputs.begin() + (whole ? 2 : 1);
  for (at::Tensor* sum : differentiable(result)) {
    if (sum->defined()) *sum = *output++;
  }
  return {after, std::move(result)};
}

TransformerBlock::Output TransformerBlock::extend(const ResidualStream& stream, const CachedTokens& tokens, const KeyValuePages& kept,
                                                  const BatchContext& context) const {
  ResidualNorm norm = residual_rms_norm(stream.hidden, stream.update, attention_norm_->value, norm_epsilon_);
  const ResidualStream attended{std::move(norm.sum), attention_->extend(norm.normed, tokens, kept)};
  std::optional<RoutingMemo> memo;
  return feed_forward(attended, context, memo);
}

Transformer::Transformer(const ModelConfig& config, at::ScalarType dtype, const ProcessMesh& mesh)
    : config_(config), dtype_(dtype), parameters_(std::make_unique<ParameterList>()), rotary_(config, dtype, mesh.device()) {
  const Box table = Box::whole({config.vocabulary, config.width});
  embedding_ = &declare_weight(*parameters_, "embedding.weight", table, Group::kDense, dtype, config.initial_deviation);
  blocks_.reserve(static_cast<size_t>(config.layers));
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    blocks_.emplace_back(*parameters_, concat("layers.", layer), config, layer, dtype, mesh);
  }
  final_norm_ = &declare_norm(*parameters_, "final_norm", config.width, dtype);
  if (config.tie_embeddings) {
    embedding_->gradient_in_parts = true;  // the head's part comes first, the lookup's at the end of backward
  } else {
    head_ = Matrix(*parameters_, "head.weight", table, Group::kDense, dtype, config.initial_deviation,
                   config.quantization.of(config.quantization.head));
  }
}

at::Tensor Transformer::hidden_states(const at::Tensor& tokens, BatchContext context, RecomputePolicy policy,
                                      std::vector<RoutingRecord>& routing) const {
  context.token_ids = tokens;
  context.sequence_length = std::max<int64_t>(1, tokens.size(1));
  const TokenPlaces places(rotary_, tokens.size(1), context.documents);
  ResidualStream stream{at::embedding(embedding_->value, tokens), {}};
  int64_t layer = 0;
  for (const TransformerBlock& block : blocks_) {
    progress_layer(layer);
    TransformerBlock::Output output = block.forward(stream, places, context, policy);
    stream = std::move(output.stream);
    if (at::GradMode::is_enabled() && stream.update.requires_grad()) {
      stream.update.register_hook([layer](const at::Tensor&) { progress_layer(layer); });  // backward enters the layer by its last part
    }
    if (output.record) routing.push_back(std::move(*output.record));
    ++layer;
  }
  progress_layer(-1);
  return residual_rms_norm(stream.hidden, stream.update, final_norm_->value, config_.norm_epsilon).normed;
}

Prediction Transformer::forward(const at::Tensor& tokens, const at::Tensor& targets, const BatchContext& context,
                                RecomputePolicy policy) const {
  Prediction prediction;
  const at::Tensor hidden = hidden_states(tokens, context, policy, prediction.routing);
  const TraceRange range("head and loss");
  const at::Tensor tokens_in_rows = hidden.view({-1, config_.width});
  if (head_.exists()) head_.tell(tokens_in_rows);
  prediction.cross_entropy_sum = head_.is_quantized() ? cross_entropy_of_scores(tokens_in_rows, targets.reshape({-1}))
                                                      : linear_cross_entropy(tokens_in_rows, head_weight(), targets.reshape({-1}));
  return prediction;
}

at::Tensor Transformer::logits(const at::Tensor& tokens, const BatchContext& context) const {
  std::vector<RoutingRecord> routing;
  const at::Tensor hidden = hidden_states(tokens, context, RecomputePolicy::kNone, routing);
  return scores_of(hidden.view({-1, config_.width})).view({tokens.size(0), tokens.size(1), config_.vocabulary});
}

at::Tensor Transformer::scores_of(const at::Tensor& hidden) const {
  if (head_.is_quantized()) return head_.multiply(hidden, at_least_float32(dtype_));
  return score_product(hidden, head_weight());
}

at::Tensor Transformer::cross_entropy_of_scores(const at::Tensor& hidden, const at::Tensor& targets) const {
  constexpr int64_t kRows = 1024;  // of scores at a time
  at::Tensor sum = at::zeros({}, hidden.options().dtype(at_least_float32(dtype_)));
  for (int64_t begin = 0; begin < hidden.size(0); begin += kRows) {
    const int64_t count = std::min(kRows, hidden.size(0) - begin);
    const at::Tensor scores = scores_of(hidden.narrow(0, begin, count));
    const at::Tensor wanted = targets.narrow(0, begin, count);
    const at::Tensor losses = at::logsumexp(scores, -1) - scores.gather(1, wanted.clamp_min(0).unsqueeze(1)).squeeze(1);
    sum += losses.masked_fill(wanted < 0, 0).sum();
  }
  return sum;
}

at::Tensor Transformer::extend(const at::Tensor& tokens, const std::vector<CachedPart>& parts, const KeyValueCache& cache,
                               int64_t most_tokens, std::vector<RoutingRecord>* routing) const {
  BatchContext context(0, most_tokens);
  const bool whole_sequence = parts.size() == 1 && parts[0].first == 0;
  context.sequence_length = whole_sequence ? parts[0].count : 1;
  return extend(tokens, CachedTokens(parts, cache, rotary_, tokens.device()), cache, std::move(context), routing);
}

at::Tensor Transformer::extend(const at::Tensor& tokens, const CachedTokens& places, const KeyValueCache& cache, BatchContext context,
                               std::vector<RoutingRecord>* routing) const {
  if (tokens.dim() != 1 || tokens.size(0) != places.paged.count || cache.layers.size() != blocks_.size()) {
    throw ShapeError(concat("Transformer::extend: ", tokens.numel(), " tokens for parts of ", places.paged.count, ", a cache of ",
                            cache.layers.size(), " layers for ", blocks_.size()));
  }
  context.token_ids = tokens.unsqueeze(0);
  ResidualStream stream{at::embedding(embedding_->value, context.token_ids), {}};
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    progress_layer(static_cast<int64_t>(layer));
    TransformerBlock::Output output = blocks_[layer].extend(stream, places, cache.layers[layer], context);
    stream = std::move(output.stream);
    if (routing != nullptr && output.record) routing->push_back(std::move(*output.record));
  }
  progress_layer(-1);
  // The other tokens do not go through the head.
  at::Tensor asked = stream.sum().squeeze(0);
  if (places.scored.defined()) asked = asked.index_select(0, places.scored);
  const at::Tensor hidden = residual_rms_norm(asked, {}, final_norm_->value, config_.norm_epsilon).normed;
  return scores_of(hidden);
}

std::vector<at::Tensor> Transformer::weights() const {
  std::vector<at::Tensor> all;
  for (const auto& parameter : *parameters_) all.push_back(parameter->value);
  return all;
}

const at::Tensor& Transformer::head_weight() const { return head_.exists() ? head_.value() : embedding_->value; }

std::string Transformer::recording_obstacle() const {
  for (const TransformerBlock& block : blocks_) {
    if (!block.is_moe()) continue;
    if (std::string obstacle = block.moe().recording_obstacle(); !obstacle.empty()) return obstacle;
  }
  return "";
}

std::vector<MoELayer*> Transformer::moe_layers() {
  std::vector<MoELayer*> layers;
  for (TransformerBlock& block : blocks_) {
    if (block.is_moe()) layers.push_back(&block.moe());
  }
  return layers;
}

int64_t ActivationBytes::peak() const {
  // Backward begins with the loss; by the time that it reaches a block, what the loss kept is gone.
  return std::max(kept() + loss_workspace, kept() - loss + layer_workspace);
}

ActivationBytes activation_bytes(const ModelConfig& config, RecomputePolicy policy, const MicroBatchShape& shape, ElementBytes bytes) {
  const int64_t tokens = shape.tokens.of_rank[0];
  const bool on_gpu = shape.tokens.on_gpu;
  const int64_t row = tokens * config.width * bytes.compute;  // [T, D]
  const int64_t scale = tokens * bytes.wide;                  // a norm's number for each row
  const bool whole = policy == RecomputePolicy::kFull;
  const AttentionBytes attention = attention_bytes(config, tokens, bytes, on_gpu);

  ActivationBytes result;
  const auto add_block = [&](int64_t feed_forward, bool recomputed, bool tokens_kept, int64_t workspace) {
    const int64_t before = row + scale + attention.kept + row;  // the first norm's result, attention, and the stream after it
    const int64_t inside = scale + (tokens_kept ? row : 0) + feed_forward;
    result.stream += row;
    // Stream gradients: of the block's result, of its second part, and their sum.
    result.layer_workspace = std::max(
        result.layer_workspace, 3 * row + std::max(workspace, attention.workspace) + (whole ? before : 0) + (recomputed ? inside : 0));
    if (whole) return;
    result.stream += row;
    result.norms += row + scale;
    result.attention += attention.kept;
    if (recomputed) return;
    result.norms += scale + (tokens_kept ? row : 0);
  };

  const int64_t moe_layers = config.moe_layers();
  const int64_t hidden = 2 * config.feed_forward_width * tokens * bytes.compute;  // grouped_swiglu_mlp's pre-activation
  for (int64_t layer = 0; layer < config.layers - moe_layers; ++layer) {
    if (!whole) result.dense += hidden;
    const int64_t weights = 3 * config.feed_forward_width * config.width * bytes.compute;
    add_block(hidden, whole, /*tokens_kept=*/true, row + 2 * hidden + weights);
  }
  if (moe_layers > 0) {
    const bool recomputed = policy != RecomputePolicy::kNone;
    const RoutedRows rows = routed_rows(config.moe, shape.tokens, shape.skew);
    const MoeBytes moe = moe_bytes(config.moe, config.width, config.sequence_length, rows,
                                   static_cast<int64_t>(shape.tokens.of_rank.size()), bytes, recomputed);
    for (int64_t layer = 0; layer < moe_layers; ++layer) {
      result.router += moe.router;
      result.dispatch += moe.dispatch;
      result.experts += moe.experts;
      result.others += moe.others;
      // What a recomputed layer keeps meanwhile is in its workspace already.
      add_block(/*feed_forward=*/0, recomputed, recomputed || moe.tokens, moe.workspace);
    }
  }
  result.stream += row;
  result.norms += scale;
  const CrossEntropyBytes loss =
      linear_cross_entropy_bytes(tokens, config.width, config.vocabulary, bytes.compute, bytes.wide, on_gpu, shape.threads);
  result.loss = loss.kept;
  result.loss_workspace = row + std::max(loss.forward, loss.backward);  // the last norm's result
  constexpr auto kId = static_cast<int64_t>(sizeof(int64_t));
  if (on_gpu) result.batch = 2 * tokens * kId;
  if (shape.documents) result.batch += tokens * (kId + config.rotary_width() * bytes.wide);
  return result;
}

}  // namespace pimoe
