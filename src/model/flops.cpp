#include "model/flops.h"

namespace pimoe {
namespace {

struct Sizes {
  int64_t attention;  // weights of one layer's projections
  int64_t dense;      // weights of one dense feed-forward
  int64_t expert;     // weights of one expert
  int64_t shared;     // weights of the shared expert
  int64_t router;     // weights of one router
  int64_t head;       // weights of the head
  int64_t dense_layers;
  int64_t moe_layers;
};

Sizes sizes_of(const ModelConfig& config) {
  const int64_t d = config.head_size();
  const int64_t moe_layers = config.moe_layers();
  return {.attention = config.width * d * (2 * config.heads + 2 * config.kv_heads),
          .dense = 3 * config.width * config.feed_forward_width,
          .expert = 3 * config.width * config.moe.expert_width,
          .shared = 3 * config.width * config.moe.shared_width,
          .router = config.width * config.moe.experts,
          .head = config.width * config.vocabulary,
          .dense_layers = config.layers - moe_layers,
          .moe_layers = moe_layers};
}

}  // namespace

TokenFlops token_flops(const ModelConfig& config) {
  const Sizes sizes = sizes_of(config);
  const auto active = static_cast<double>(config.layers * sizes.attention + sizes.dense_layers * sizes.dense +
                                          sizes.moe_layers * (config.moe.choices * sizes.expert + sizes.shared) + sizes.head);
  const auto router = static_cast<double>(sizes.moe_layers * sizes.router);
  const auto attention = static_cast<double>(config.layers * config.heads * config.head_size() * config.sequence_length);
  return {.megatron = 6 * active + 6 * attention, .torchtitan = 6 * (active + router) + 12 * attention};
}

ParameterCount parameter_count(const ModelConfig& config) {
  const Sizes sizes = sizes_of(config);
  const int64_t norms = config.layers * (2 * config.width + (config.qk_norm ? 2 * config.head_size() : 0)) + config.width;
  const int64_t everywhere = norms + config.layers * sizes.attention + sizes.dense_layers * sizes.dense +
                             sizes.moe_layers * (sizes.shared + sizes.router) + sizes.head;
  return {.total = everywhere + sizes.moe_layers * config.moe.experts * sizes.expert + (config.tie_embeddings ? 0 : sizes.head),
          .active = everywhere + sizes.moe_layers * config.moe.choices * sizes.expert};
}

}  // namespace pimoe
