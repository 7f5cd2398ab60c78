#include "model/flops.h"

#include <algorithm>

namespace pimoe {
namespace {

struct Sizes {
  int64_t attention;  // weights of one layer's projections
  int64_t dense;      // weights of one dense feed-forward
  int64_t experts;    // weights of all experts of a layer
  double chosen;      // weights of the experts that a token passes, for experts of several shapes at balance
  int64_t shared;     // weights of the shared expert
  int64_t router;     // weights of one router
  int64_t head;       // weights of the head
  int64_t dense_layers;
  int64_t moe_layers;
};

int64_t all_experts(const ModelConfig& config) {
  int64_t weights = 0;
  for (const ExpertGroupConfig& group : config.moe.expert_groups()) {
    const int64_t in_and_out = (is_gated(group.activation) ? 3 : 2) * config.width * group.width;
    weights += group.count * (in_and_out + (group.layers - 2) * group.width * group.width);
  }
  return weights;
}

Sizes sizes_of(const ModelConfig& config) {
  const int64_t experts = all_experts(config);
  const int64_t router_input = config.moe.router.projection > 0 ? config.moe.router.projection : config.width;
  const int64_t moe_layers = config.moe_layers();
  return {.attention = attention_weights(config),
          .dense = 3 * config.width * config.feed_forward_width,
          .experts = experts,
          .chosen = static_cast<double>(experts * config.moe.choices) / static_cast<double>(std::max<int64_t>(1, config.moe.experts)),
          .shared = 3 * config.width * config.moe.shared_width + (config.moe.shared_width > 0 && config.moe.shared_gate ? config.width : 0),
          .router = router_input * config.moe.experts + config.width * config.moe.router.projection,
          .head = config.width * config.vocabulary,
          .dense_layers = config.layers - moe_layers,
          .moe_layers = moe_layers};
}

}  // namespace

TokenFlops token_flops(const ModelConfig& config) {
  const Sizes sizes = sizes_of(config);
  const double active = static_cast<double>(config.layers * sizes.attention + sizes.dense_layers * sizes.dense +
                                            sizes.moe_layers * sizes.shared + sizes.head) +
                        static_cast<double>(sizes.moe_layers) * sizes.chosen;
  const auto router = static_cast<double>(sizes.moe_layers * sizes.router);
  const auto attention = static_cast<double>(config.layers * config.heads * (config.key_width() + config.value_width())) / 2 *
                         static_cast<double>(config.sequence_length);
  return {.megatron = 6 * active + 6 * attention, .torchtitan = 6 * (active + router) + 12 * attention};
}

int64_t attention_weights(const ModelConfig& config) {
  const int64_t queries = config.heads * config.key_width();
  if (!config.is_latent()) return config.width * config.head_size() * (2 * config.heads + 2 * config.kv_heads);
  const LatentConfig& latent = config.latent;
  const int64_t of_queries = latent.query_rank > 0 ? latent.query_rank * (config.width + queries) : config.width * queries;
  return of_queries + config.width * (latent.kv_rank + latent.rotary_width) +
         latent.kv_rank * config.heads * (latent.plain_width + latent.value_width) + config.width * config.heads * latent.value_width;
}

double expert_flops(const ModelConfig& config) { return 6 * sizes_of(config).chosen; }

ParameterCount parameter_count(const ModelConfig& config) {
  const Sizes sizes = sizes_of(config);
  const int64_t beside_attention = config.is_latent() ? config.latent.query_rank + config.latent.kv_rank
                                   : config.qkv_bias  ? (config.heads + 2 * config.kv_heads) * config.head_size()
                                                      : 0;
  const int64_t qk_norm = config.norms_heads()         ? 2 * config.head_size()
                          : config.norms_projections() ? (config.heads + config.kv_heads) * config.head_size()
                                                       : 0;
  const int64_t norms = config.layers * (2 * config.width + qk_norm + beside_attention) + config.width;
  const int64_t beside = 3 * config.width * config.moe.fallback_width + (config.moe.router.linear_bias ? config.moe.experts : 0);
  const int64_t everywhere = norms + config.layers * sizes.attention + sizes.dense_layers * sizes.dense +
                             sizes.moe_layers * (sizes.shared + sizes.router) + sizes.head;
  return {.total = everywhere + sizes.moe_layers * (sizes.experts + beside) + (config.tie_embeddings ? 0 : sizes.head),
          .active = everywhere + static_cast<int64_t>(static_cast<double>(sizes.moe_layers) * sizes.chosen)};
}

}  // namespace pimoe
