#include "interop/hf_family.h"

#include "base/errors.h"
#include "base/text.h"

#include <algorithm>
#include <array>

namespace pimoe {
namespace {

constexpr std::array<HfFamilyTraits, kHfFamilies.size()> kFamilies = {{
    {HfFamily::kLlama, "llama", "LlamaForCausalLM", false, false, false},
    {HfFamily::kQwen2, "qwen2", "Qwen2ForCausalLM", false, false, false},
    {HfFamily::kQwen3, "qwen3", "Qwen3ForCausalLM", false, true, false},
    {HfFamily::kMixtral, "mixtral", "MixtralForCausalLM", true, false, false},
    {HfFamily::kQwen2Moe, "qwen2_moe", "Qwen2MoeForCausalLM", true, false, false},
    {HfFamily::kQwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM", true, true, false},
    {HfFamily::kOlmoe, "olmoe", "OlmoeForCausalLM", true, true, false},
    {HfFamily::kDeepseekV2, "deepseek_v2", "DeepseekV2ForCausalLM", true, false, true},
    {HfFamily::kDeepseekV3, "deepseek_v3", "DeepseekV3ForCausalLM", true, false, true},
}};

template <class Value>
[[noreturn]] void refuse(const char* key, const Value& value, const char* why) {
  throw DataError(concat("model.", key, " (", value, ") cannot be exported", why));
}

/// @throws DataError naming the first key of model.moe that no family has
void require_plain_experts(const MoeConfig& moe) {
  if (moe.router.projection > 0) refuse("moe.router.projection", moe.router.projection, ": their routers score the tokens themselves");
  if (moe.router.linear_bias) refuse("moe.router.linear_bias", "true", ": their routers have no biases on logits");
  if (moe.fallback_width > 0) refuse("moe.fallback_width", moe.fallback_width, ": they have no fallback network");
  for (const ExpertGroupConfig& group : moe.expert_groups()) {
    const bool plain = group.activation == Activation::kSwiglu && group.layers == 2;
    if (!plain || moe.groups.size() > 1) {
      refuse("moe.groups", concat("'", group.name, "'"), ": their experts are all alike, of two-layer swiglu");
    }
  }
}

/// @throws DataError naming the first key of the router that families with grouped-query attention do not have
void require_softmax_router(const MoeConfig& moe) {
  const RouterConfig& router = moe.router;
  if (router.kind != RouterKind::kSoftmax) {
    refuse("moe.router.kind", moe.router_kind(), ": transformers' families with grouped-query attention route by softmax");
  }
  if (router.route_scale != 1) refuse("moe.router.route_scale", router.route_scale, ": their gates are not scaled");
  if (router.groups > 1 && router.group_choices < router.groups) {
    refuse("moe.router.groups", router.groups, ": their experts are in one group");
  }
}

/// @throws DataError naming the first key that DeepSeek's families, which alone have latent attention, do not have
HfFamily family_of_deepseek(const ModelConfig& model) {
  const MoeConfig& moe = model.moe;
  if (model.moe_layers() == 0) return HfFamily::kDeepseekV3;
  const RouterConfig& router = moe.router;
  const int64_t inner = moe.expert_groups()[0].width;
  const bool second = router.kind == RouterKind::kSoftmax;
  if (!second && router.kind != RouterKind::kSigmoid) {
    refuse("moe.router.kind", moe.router_kind(), " with latent attention: DeepSeek-V3 routes by sigmoids, DeepSeek-V2 by softmax");
  }
  if (moe.shared_gate) refuse("moe.shared_gate", "true", " with latent attention: DeepSeek's shared experts have none");
  if (moe.shared_width == 0 || moe.shared_width % inner != 0) {
    refuse("moe.shared_width", moe.shared_width, " with latent attention: DeepSeek's is a multiple of expert_width, and not 0");
  }
  const bool limits = router.groups > 1 && router.group_choices < router.groups;
  if (second) {
    if (router.normalises())
      refuse("moe.router.renormalize", "true", " with a softmax and latent attention: DeepSeek-V2's gates are its scores");
    if (!model.latent.interleaved) refuse("latent.interleaved", "false", " with a softmax router: DeepSeek-V2's positions turn neighbours");
    if (limits && router.group_score != GroupScore::kMax) {
      refuse("moe.router.group_score", "sum", " with a softmax and latent attention: DeepSeek-V2's groups score as their best expert");
    }
    return HfFamily::kDeepseekV2;
  }
  if (moe.experts < 2 * router.groups) {
    refuse("moe.router.groups", router.groups, " with latent attention: DeepSeek-V3's have 2 experts or more each");
  }
  const bool best_two = router.group_score == GroupScore::kSum &&
                        (router.group_top > 0 ? router.group_top : std::max<int64_t>(1, moe.choices / router.group_choices)) == 2;
  if (limits && !best_two) {
    refuse("moe.router.group_top", router.group_top, " with latent attention: DeepSeek-V3's groups score as the sum of their best 2");
  }
  return HfFamily::kDeepseekV3;
}

HfFamily family_with_experts(const ModelConfig& model) {
  const MoeConfig& moe = model.moe;
  require_softmax_router(moe);
  const bool gated = moe.shared_width > 0 && moe.shared_gate;
  if (moe.shared_width > 0 && !gated) {
    refuse("moe.shared_width", moe.shared_width, " without model.moe.shared_gate: Qwen2-MoE's shared expert has a gate");
  }
  if (gated) {
    if (model.qk_norm) refuse("moe.shared_width", moe.shared_width, " with model.qk_norm: Qwen2-MoE has no such norms");
    return HfFamily::kQwen2Moe;
  }
  if (model.qkv_bias) {
    refuse("qkv_bias", "true", " with experts, but for a shared one with a gate (model.moe.shared_width): Qwen2-MoE alone has biases");
  }
  if (model.norms_heads()) return HfFamily::kQwen3Moe;
  if (model.norms_projections()) {
    if (moe.first_dense_layers > 0) {
      refuse("moe.first_dense_layers", moe.first_dense_layers, " with model.qk_norm_over (projection): every layer of OLMoE has experts");
    }
    if (model.heads * model.head_size() != model.width) {
      refuse("head_width", model.head_size(), " with model.qk_norm_over (projection): OLMoE's is width / heads");
    }
    return HfFamily::kOlmoe;
  }
  if (!moe.router.normalises()) refuse("moe.router.renormalize", "false", " without model.qk_norm: Mixtral's gates add up to 1");
  if (moe.first_dense_layers > 0) {
    refuse("moe.first_dense_layers", moe.first_dense_layers, " without model.qk_norm: every layer of Mixtral has experts");
  }
  return HfFamily::kMixtral;
}

}  // namespace

const HfFamilyTraits& traits_of(HfFamily family) { return kFamilies.at(static_cast<size_t>(family)); }

HfFamily family_of(const ModelConfig& model) {
  if (model.moe_layers() > 0) require_plain_experts(model.moe);
  if (model.is_latent()) {
    if (model.latent.norm_epsilon != LatentConfig().norm_epsilon) {
      refuse("latent.norm_epsilon", model.latent.norm_epsilon, ": DeepSeek's is 1e-06");
    }
    return family_of_deepseek(model);
  }
  if (model.moe_layers() > 0) return family_with_experts(model);
  if (model.norms_projections()) refuse("qk_norm_over", "projection", " without experts: OLMoE alone has such norms");
  if (model.qk_norm && model.qkv_bias) refuse("qkv_bias", "true", " with model.qk_norm: Qwen3's biases are off");
  return model.qk_norm ? HfFamily::kQwen3 : model.qkv_bias ? HfFamily::kQwen2 : HfFamily::kLlama;
}

std::vector<std::string> doubts_about_export(const ModelConfig& model) {
  std::vector<std::string> doubts;
  if (model.moe_layers() == 0) return doubts;
  if (model.moe.capacity_factor > 0) {
    doubts.push_back(
        concat("model.moe.capacity_factor (", model.moe.capacity_factor, ") is not part of what is exported: no token is dropped there"));
  }
  if (model.moe.drops_above_budget()) {
    doubts.push_back(
        concat("model.moe.rank_budget (", model.moe.rank_budget, ") is not part of what is exported: no token is dropped there"));
  }
  return doubts;
}

}  // namespace pimoe
