#include "interop/weight_names.h"

#include "base/text.h"

namespace pimoe {
namespace {

using Shape = std::vector<int64_t>;
using Has = std::function<bool(const std::string&)>;
using Check = std::function<void(const HfPart&)>;

class Planner {
 public:
  Planner(HfFamily family, const ModelConfig& model, const Has& has, const Check& check)
      : family_(family), model_(model), has_(has), check_(check) {}

  std::vector<WeightPlan> plans() {
    same("embedding.weight", {model_.vocabulary, model_.width}, "model.embed_tokens.weight");
    for (int64_t layer = 0; layer < model_.layers; ++layer) add_layer(layer);
    same("final_norm.weight", {model_.width}, "model.norm.weight");
    if (!model_.tie_embeddings) same("head.weight", {model_.vocabulary, model_.width}, "lm_head.weight");
    return std::move(plans_);
  }

 private:
  void begin(const std::string& ours, const Shape& shape) { plans_.push_back({.name = ours, .shape = shape, .parts = {}}); }
  void add(const std::string& theirs, const Shape& shape, bool wide = false) {
    plans_.back().parts.push_back({.name = theirs, .shape = shape, .wide = wide});
    check_(plans_.back().parts.back());
  }
  void same(const std::string& ours, const Shape& shape, const std::string& theirs) {
    begin(ours, shape);
    add(theirs, shape);
  }

  void add_layer(int64_t layer) {
    const std::string ours = concat("layers.", layer, ".");
    const std::string theirs = concat("model.layers.", layer, ".");
    const int64_t width = model_.width;
    same(ours + "attention_norm.weight", {width}, theirs + "input_layernorm.weight");
    if (model_.is_latent()) {
      add_latent_attention(ours + "attention.", theirs + "self_attn.");
    } else {
      add_attention(ours + "attention.", theirs + "self_attn.");
    }
    same(ours + "feed_forward_norm.weight", {width}, theirs + "post_attention_layernorm.weight");
    if (model_.is_moe_layer(layer)) {
      add_experts(ours + "moe.", theirs);
    } else {
      add_network(ours + "feed_forward.", theirs + "mlp.", model_.feed_forward_width);
    }
  }

  void add_attention(const std::string& ours, const std::string& theirs) {
    const int64_t head = model_.head_size();
    const Shape queries = {model_.heads * head, model_.width};
    const Shape keys = {model_.kv_heads * head, model_.width};
    begin(ours + "qkv.weight", {queries[0] + 2 * keys[0], model_.width});
    add(theirs + "q_proj.weight", queries);
    add(theirs + "k_proj.weight", keys);
    add(theirs + "v_proj.weight", keys);
    if (model_.qkv_bias) {
      begin(ours + "qkv.bias", {queries[0] + 2 * keys[0]});
      add(theirs + "q_proj.bias", {queries[0]});
      add(theirs + "k_proj.bias", {keys[0]});
      add(theirs + "v_proj.bias", {keys[0]});
    }
    same(ours + "output.weight", {model_.width, queries[0]}, theirs + "o_proj.weight");
    if (model_.qk_norm) {
      const bool together = model_.norms_projections();
      same(ours + "q_norm.weight", {together ? queries[0] : head}, theirs + "q_norm.weight");
      same(ours + "k_norm.weight", {together ? keys[0] : head}, theirs + "k_norm.weight");
    }
  }

  void add_latent_attention(const std::string& ours, const std::string& theirs) {
    const LatentConfig& latent = model_.latent;
    const int64_t queries = model_.heads * model_.key_width();
    if (latent.query_rank > 0) {
      same(ours + "query_down.weight", {latent.query_rank, model_.width}, theirs + "q_a_proj.weight");
      same(ours + "query_norm.weight", {latent.query_rank}, theirs + "q_a_layernorm.weight");
      same(ours + "query_up.weight", {queries, latent.query_rank}, theirs + "q_b_proj.weight");
    } else {
      same(ours + "query.weight", {queries, model_.width}, theirs + "q_proj.weight");
    }
    same(ours + "kv_down.weight", {latent.kv_rank + latent.rotary_width, model_.width}, theirs + "kv_a_proj_with_mqa.weight");
    same(ours + "kv_norm.weight", {latent.kv_rank}, theirs + "kv_a_layernorm.weight");
    same(ours + "kv_up.weight", {model_.heads * (latent.plain_width + latent.value_width), latent.kv_rank}, theirs + "kv_b_proj.weight");
    same(ours + "output.weight", {model_.width, model_.heads * latent.value_width}, theirs + "o_proj.weight");
  }

  void add_network(const std::string& ours, const std::string& theirs, int64_t hidden) {
    begin(ours + "gate_up.weight", {2 * hidden, model_.width});
    add(theirs + "gate_proj.weight", {hidden, model_.width});
    add(theirs + "up_proj.weight", {hidden, model_.width});
    same(ours + "down.weight", {model_.width, hidden}, theirs + "down_proj.weight");
  }

  void add_shared_expert(const std::string& ours, const std::string& block) {
    if (model_.moe.shared_width == 0) return;
    add_network(ours, block + (model_.is_latent() ? "shared_experts." : "shared_expert."), model_.moe.shared_width);
    if (model_.moe.shared_gate) same(ours + "gate.weight", {1, model_.width}, block + "shared_expert_gate.weight");
  }

  void add_experts(const std::string& ours, const std::string& layer) {
    const MoeConfig& moe = model_.moe;
    const ExpertGroupConfig group = moe.expert_groups()[0];
    const int64_t width = model_.width;
    const int64_t inner = group.width;
    // Transformers 5 calls Mixtral's block as the others' where it is not asked for the original names.
    const bool mixtral = family_ == HfFamily::kMixtral && !has_(layer + "mlp.gate.weight");
    const std::string block = layer + (mixtral ? "block_sparse_moe." : "mlp.");
    same(ours + "router.weight", {moe.experts, width}, block + "gate.weight");
    if (family_ == HfFamily::kDeepseekV3) {
      begin(ours + "router.bias", {moe.experts});
      plans_.back().is_state = true;
      add(block + "gate.e_score_correction_bias", {moe.experts}, /*wide=*/true);
    }
    add_shared_expert(ours + "shared.", block);
    const std::string bank = ours + (group.name.empty() ? "experts." : concat("experts.", group.name, "."));
    const Shape gate_up = {moe.experts, 2 * inner, width};
    const Shape down = {moe.experts, width, inner};
    const std::string merged = block + "experts.";
    if (has_(merged + "gate_up_proj") || has_(merged + "down_proj")) {
      same(bank + "gate_up.weight", gate_up, merged + "gate_up_proj");
      same(bank + "down.weight", down, merged + "down_proj");
      return;
    }
    const char* const gate_name = mixtral ? ".w1.weight" : ".gate_proj.weight";
    const char* const up_name = mixtral ? ".w3.weight" : ".up_proj.weight";
    const char* const down_name = mixtral ? ".w2.weight" : ".down_proj.weight";
    begin(bank + "gate_up.weight", gate_up);
    for (int64_t expert = 0; expert < moe.experts; ++expert) {
      add(concat(merged, expert, gate_name), {inner, width});
      add(concat(merged, expert, up_name), {inner, width});
    }
    begin(bank + "down.weight", down);
    for (int64_t expert = 0; expert < moe.experts; ++expert) add(concat(merged, expert, down_name), {width, inner});
  }

  HfFamily family_;
  const ModelConfig& model_;
  const Has& has_;
  const Check& check_;
  std::vector<WeightPlan> plans_;
};

}  // namespace

std::vector<WeightPlan> weight_plans(HfFamily family, const ModelConfig& model, const Has& has, const Check& check) {
  return Planner(family, model, has, check).plans();
}

}  // namespace pimoe
