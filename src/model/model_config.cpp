#include "model/model_config.h"

#include "base/text.h"

#include <algorithm>

namespace pimoe {
namespace {

/// Sizes above it cannot be computed with in 64 bits once they are multiplied by bytes and operations.
constexpr double kMostParameters = 1e15;

/// About the size of parameter_count().total, in numbers that do not overflow.
double roughly_all_parameters(const ModelConfig& config) {
  const auto width = static_cast<double>(config.width);
  const auto moe_layers = static_cast<double>(config.moe_layers());
  const double dense_layers = static_cast<double>(config.layers) - moe_layers;
  const auto ranks = static_cast<double>(config.is_latent() ? config.latent.kv_rank + config.latent.query_rank : 0);
  const double attention = (width + ranks) * static_cast<double>(config.key_width() + config.value_width()) *
                           static_cast<double>(config.heads + config.key_heads());
  const double dense = 3 * width * static_cast<double>(config.feed_forward_width);
  const MoeConfig& moe = config.moe;
  const auto projection = static_cast<double>(moe.router.projection);
  double experts = 3 * width * (static_cast<double>(moe.shared_width) + static_cast<double>(moe.fallback_width)) + projection * width +
                   (projection > 0 ? projection : width) * static_cast<double>(moe.experts);
  for (const ExpertGroupConfig& group : moe.expert_groups()) {
    const auto inner = static_cast<double>(group.width);
    experts += static_cast<double>(group.count) * (3 * width * inner + static_cast<double>(group.layers - 2) * inner * inner);
  }
  return 2 * width * static_cast<double>(config.vocabulary) + (dense_layers + moe_layers) * attention + dense_layers * dense +
         moe_layers * experts;
}

}  // namespace

void ModelConfig::fields(FieldVisitor& visit) {
  visit.integer("layers", layers, {.at_least = 1, .at_most = 10'000}, "transformer blocks");
  visit.integer("width", width, {.at_least = 1, .at_most = 1 << 20}, "width of the residual stream");
  visit.integer("heads", heads, {.at_least = 1, .at_most = 1 << 16}, "query heads");
  visit.integer("kv_heads", kv_heads, {.at_least = 1, .at_most = 1 << 16}, "key and value heads");
  visit.integer_or_auto("head_width", head_width, {.at_least = 2, .at_most = 1 << 16}, "width of a head; auto: width / heads");
  visit.integer("sequence_length", sequence_length, {.at_least = 1, .at_most = 1 << 24}, "tokens of a sequence");
  visit.integer("vocabulary", vocabulary, {.at_least = 0, .at_most = 1 << 24}, "token ids; 0 takes the tokenizer's");
  visit.integer("feed_forward_width", feed_forward_width, {.at_least = 1, .at_most = 1 << 24}, "hidden width of dense layers");
  visit.flag("tie_embeddings", tie_embeddings, "use the embedding as the head");
  visit.flag("qk_norm", qk_norm, "RMSNorm of queries and keys");
  visit.choice("qk_norm_over", qk_norm_over, {{"head", QkNormOver::kHead}, {"projection", QkNormOver::kProjection}},
               "each head by itself (Qwen3), or all heads together (OLMoE)");
  visit.flag("qkv_bias", qkv_bias, "biases on queries, keys and values (Qwen2)");
  visit.number("rope_theta", rope_theta, {.above = 0, .at_most = 1e30}, "base of the rotary frequencies");
  visit.number("norm_epsilon", norm_epsilon, {.above = 0, .at_most = 1}, "epsilon of every RMSNorm");
  visit.number("initial_deviation", initial_deviation, {.at_least = 0, .at_most = kMostCoefficient},
               "standard deviation of initial weights");
  visit.path("initial_weights", initial_weights,
             "Hugging Face folder that a new run begins from, which gives every other key of the model; empty: weights are drawn");
  visit.text("upcycle", upcycle, "makes experts of the dense model there, as import --upcycle: experts=8,choices=2");
  visit.nested("rotary", rotary);
  visit.nested("latent", latent);
  visit.nested("moe", moe);
  visit.nested("quantization", quantization);
}

void ModelConfig::validate(Violations& violations) const {
  if (!upcycle.empty() && initial_weights.empty()) {
    violations.add("model.upcycle", concat("(", upcycle, ") is for a model that model.initial_weights names, which is empty"));
  }
  if (is_latent()) {
    latent.validate(violations);
    // Its latents have norms of their own, and its keys no head that a bias or a norm could go over.
    if (qk_norm) violations.add("model.qk_norm", "(true) must be false with latent attention (model.latent.kv_rank)");
    if (qkv_bias) violations.add("model.qkv_bias", "(true) must be false with latent attention (model.latent.kv_rank)");
  } else if (head_width == 0 && width % heads != 0) {
    violations.add("model.width", concat("(", width, ") must be divisible by model.heads (", heads, "), or set model.head_width"));
  } else if (head_size() % 2 != 0) {
    violations.add("model.head_width", concat("(", head_size(), ") must be even: rotary positions turn pairs"));
  }
  if (!is_latent() && heads % kv_heads != 0) {
    violations.add("model.heads", concat("(", heads, ") must be divisible by model.kv_heads (", kv_heads, ")"));
  }
  rotary.validate(rope_theta, sequence_length, violations);
  if (const double parameters = roughly_all_parameters(*this); parameters > kMostParameters) {
    violations.add("model",
                   concat("would have ", scientific(parameters, 1), " parameters; at most ", scientific(kMostParameters, 0),
                          ": look for a size with digits too many among layers, width, heads, vocabulary, moe.expert_width, groups"));
  }
  moe.validate("model.moe", violations);
  if (quantization.exists() && quantization.head && tie_embeddings) {
    violations.add("model.quantization.head", "(true) must be false with model.tie_embeddings: the head is the embedding");
  }
}

int64_t ModelConfig::moe_layers() const { return moe.experts > 0 ? std::max<int64_t>(0, layers - moe.first_dense_layers) : 0; }

std::vector<std::string> ModelConfig::router_names() const {
  std::vector<std::string> names;
  for (int64_t layer = layers - moe_layers(); layer < layers; ++layer) names.push_back(concat("layers.", layer, ".moe.router"));
  return names;
}

}  // namespace pimoe
