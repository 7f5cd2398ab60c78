#pragma once

#include "base/config_fields.h"
#include "model/latent_config.h"
#include "model/rotary_config.h"
#include "moe/moe_config.h"
#include "moe/quantization_config.h"

#include <filesystem>
#include <string>
#include <vector>

namespace pimoe {

/// What a norm of queries and keys goes over.
enum class QkNormOver {
  kHead,        ///< each head, with a weight that all heads share (Qwen3)
  kProjection,  ///< all heads together (OLMoE)
};

/// `model:`
struct ModelConfig {
  int64_t layers = 6;
  int64_t width = 256;  ///< D
  int64_t heads = 4;
  int64_t kv_heads = 4;               ///< heads of keys and values; fewer than heads is grouped-query attention
  int64_t head_width = 0;             ///< d; 0 is auto: width / heads
  int64_t sequence_length = 256;      ///< S in training; rotary positions go no further
  int64_t vocabulary = 0;             ///< V; 0 takes the tokenizer's
  int64_t feed_forward_width = 1024;  ///< of dense layers
  bool tie_embeddings = false;        ///< the head is the embedding
  bool qk_norm = false;               ///< RMSNorm of queries and keys
  QkNormOver qk_norm_over = QkNormOver::kHead;
  bool qkv_bias = false;  ///< biases on queries, keys and values
  double rope_theta = 10000.0;
  double norm_epsilon = 1e-5;
  double initial_deviation = 0.02;
  std::filesystem::path initial_weights;  ///< folder of Hugging Face's that a run which begins takes them from; empty: drawn
  std::string upcycle;                    ///< makes a model with experts of the dense one there, interop/upcycle.h; empty: as it is
  RotaryConfig rotary;
  LatentConfig latent;
  MoeConfig moe;
  QuantizationConfig quantization;

  void fields(FieldVisitor& visit);
  void validate(Violations& violations) const;

  bool is_latent() const { return latent.kv_rank > 0; }
  /// d of grouped-query attention
  int64_t head_size() const { return head_width > 0 ? head_width : width / heads; }
  /// What attention sees of a position: query heads of key_width, as many key heads as key_heads, and as many value heads of value_width.
  int64_t key_heads() const { return is_latent() ? heads : kv_heads; }
  int64_t key_width() const { return is_latent() ? latent.plain_width + latent.rotary_width : head_size(); }
  int64_t value_width() const { return is_latent() ? latent.value_width : head_size(); }
  /// Numbers of a head that positions turn.
  int64_t rotary_width() const { return is_latent() ? latent.rotary_width : head_size(); }
  bool norms_heads() const { return qk_norm && qk_norm_over == QkNormOver::kHead; }
  bool norms_projections() const { return qk_norm && qk_norm_over == QkNormOver::kProjection; }
  bool is_moe_layer(int64_t layer) const { return moe.experts > 0 && layer >= moe.first_dense_layers; }
  int64_t moe_layers() const;
  /// The name of each layer's router that has one, in order: "layers.3.moe.router", as the model's own say too.
  std::vector<std::string> router_names() const;
};

}  // namespace pimoe
