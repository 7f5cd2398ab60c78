#include "moe/moe_config.h"

#include "base/text.h"

namespace pimoe {

void RouterConfig::fields(FieldVisitor& visit) {
  visit.choice("kind", kind, {{"softmax", RouterKind::kSoftmax}, {"uniform", RouterKind::kUniform}},
               "softmax top-k, or uniform: a baseline that spreads tokens evenly whatever they are");
  visit.flag("renormalize", renormalize, "divide a token's K gates by their sum");
}

void BalanceConfig::fields(FieldVisitor& visit) {
  visit.number("switch_loss", switch_loss, {.at_least = 0}, "coefficient of the Switch balance loss (arXiv 2101.03961)");
  visit.number("z_loss", z_loss, {.at_least = 0}, "coefficient of the router z-loss (arXiv 2202.08906)");
  visit.number("bias_rate", bias_rate, {.at_least = 0}, "step of the loss-free bias (arXiv 2408.15664); 0: off");
}

void MoeConfig::fields(FieldVisitor& visit) {
  visit.integer("experts", experts, {.at_least = 0, .at_most = 1023}, "experts of each MoE layer; 0: a dense model");
  visit.integer("choices", choices, {.at_least = 1, .at_most = 1023}, "experts that each token is sent to");
  visit.integer("expert_width", expert_width, {.at_least = 1, .at_most = 1 << 24}, "width of an expert's hidden layer");
  visit.integer("shared_width", shared_width, {.at_least = 0, .at_most = 1 << 24}, "width of the expert that every token passes; 0: none");
  visit.integer("first_dense_layers", first_dense_layers, {.at_least = 0, .at_most = 10'000}, "dense layers before the first MoE layer");
  visit.number("capacity_factor", capacity_factor, {.at_least = 0}, "0: dropless");
  visit.nested("router", router);
  visit.nested("balance", balance);
}

void MoeConfig::validate(const char* key, Violations& violations) const {
  if (experts > 0 && choices > experts) {
    violations.add(concat(key, ".choices"), concat("(", choices, ") must be at most ", key, ".experts (", experts, ")"));
  }
  if (capacity_factor != 0) {
    violations.add(concat(key, ".capacity_factor"), concat("(", capacity_factor, ") must be 0: routing is dropless in this version"));
  }
}

}  // namespace pimoe
