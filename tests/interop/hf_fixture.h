#pragma once

/// Small folders of Hugging Face's, made without its libraries.

#include "base/file_io.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "interop/safetensors_folder.h"
#include "interop/weight_names.h"
#include "support/temporary_folder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include <filesystem>
#include <string>

namespace pimoe {

using HfJson = nlohmann::ordered_json;

inline HfJson tiny_config(HfFamily family) {
  HfJson config = {{"model_type", traits_of(family).model_type},
                   {"architectures", {traits_of(family).architecture}},
                   {"vocab_size", 23},
                   {"hidden_size", 8},
                   {"intermediate_size", 12},
                   {"num_hidden_layers", 2},
                   {"num_attention_heads", 2},
                   {"num_key_value_heads", 1},
                   {"head_dim", 4},
                   {"hidden_act", "silu"},
                   {"max_position_embeddings", 16},
                   {"rms_norm_eps", 1e-6},
                   {"rope_theta", 10000.0},
                   {"tie_word_embeddings", false},
                   {"bos_token_id", 1},
                   {"eos_token_id", 2}};
  if (traits_of(family).has_experts) config["num_experts_per_tok"] = 2;
  if (family == HfFamily::kMixtral) config["num_local_experts"] = 4;
  if (family == HfFamily::kOlmoe) {
    config["num_experts"] = 4;
    config["norm_topk_prob"] = false;
    config["clip_qkv"] = nullptr;
  }
  if (family == HfFamily::kQwen3Moe) {
    config["num_experts"] = 4;
    config["moe_intermediate_size"] = 6;
    config["norm_topk_prob"] = true;
  }
  if (family == HfFamily::kQwen2Moe) {
    config["num_experts"] = 4;
    config["moe_intermediate_size"] = 6;
    config["shared_expert_intermediate_size"] = 10;
    config["norm_topk_prob"] = false;
  }
  if (traits_of(family).has_latent) {
    config.erase("head_dim");
    config.update({{"num_key_value_heads", 2},
                   {"q_lora_rank", 6},
                   {"kv_lora_rank", 4},
                   {"qk_nope_head_dim", 3},
                   {"qk_rope_head_dim", 2},
                   {"v_head_dim", 4},
                   {"n_routed_experts", 4},
                   {"n_shared_experts", 2},
                   {"moe_intermediate_size", 6},
                   {"n_group", 2},
                   {"topk_group", 1},
                   {"routed_scaling_factor", 2.5},
                   {"norm_topk_prob", true},
                   {"first_k_dense_replace", 1}});
  }
  if (family == HfFamily::kDeepseekV2) config.update({{"norm_topk_prob", false}, {"topk_method", "group_limited_greedy"}});
  return config;
}

/// Weights of a config.json, each element another number that every dtype holds exactly.
inline void write_tiny_weights(const std::filesystem::path& folder, const HfJson& config, at::ScalarType dtype = at::kFloat,
                               int64_t shard_bytes = 1 << 30) {
  const HfModel hf = model_of_config(config, "config.json", 0);
  std::vector<SafetensorsTensor> tensors;
  weight_plans(
      hf.family, hf.model, [](const std::string&) { return false; },
      [&](const HfPart& part) {
        tensors.push_back({part.name, part.shape, part.wide ? std::optional(at::kFloat) : std::nullopt});
      });
  const auto elements = [&](size_t index, int64_t begin, int64_t count) {
    const auto first = static_cast<int64_t>(index) * 7 + begin;
    return ((at::arange(first, first + count) * 37).remainder(127) - 63).to(at::kFloat).div(64).to(tensors[index].dtype.value_or(dtype));
  };
  write_safetensors_folder(folder, tensors, dtype, shard_bytes, elements);
}

inline std::filesystem::path write_tiny_model(const TemporaryFolder& folder, const std::string& name, const HfJson& config,
                                              at::ScalarType dtype = at::kFloat) {
  const std::filesystem::path path = folder.write(name + "/config.json", config.dump()).parent_path();
  write_tiny_weights(path, config, dtype);
  return path;
}

}  // namespace pimoe
