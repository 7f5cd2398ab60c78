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
  void begin(const std::string& ours, const Shape& shape) { plans_.push_back({ours, shape, {}}); }
  void add(const std::string& theirs, const Shape& shape) {
    plans_.back().parts.push_back({theirs, shape});
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
    const int64_t head = model_.head_size();
    const Shape queries = {model_.heads * head, width};
    const Shape keys = {model_.kv_heads * head, width};
    const std::string attention = theirs + "self_attn.";
    same(ours + "attention_norm.weight", {width}, theirs + "input_layernorm.weight");
    begin(ours + "attention.qkv.weight", {queries[0] + 2 * keys[0], width});
    add(attention + "q_proj.weight", queries);
    add(attention + "k_proj.weight", keys);
    add(attention + "v_proj.weight", keys);
    same(ours + "attention.output.weight", {width, queries[0]}, attention + "o_proj.weight");
    if (model_.qk_norm) {
      const bool together = model_.norms_projections();
      same(ours + "attention.q_norm.weight", {together ? queries[0] : head}, attention + "q_norm.weight");
      same(ours + "attention.k_norm.weight", {together ? keys[0] : head}, attention + "k_norm.weight");
    }
    same(ours + "feed_forward_norm.weight", {width}, theirs + "post_attention_layernorm.weight");
    if (model_.is_moe_layer(layer)) {
      add_experts(ours + "moe.", theirs);
    } else {
      const Shape up = {model_.feed_forward_width, width};
      begin(ours + "feed_forward.gate_up.weight", {2 * up[0], width});
      add(theirs + "mlp.gate_proj.weight", up);
      add(theirs + "mlp.up_proj.weight", up);
      same(ours + "feed_forward.down.weight", {width, up[0]}, theirs + "mlp.down_proj.weight");
    }
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
