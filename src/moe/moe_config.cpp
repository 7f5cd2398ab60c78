#include "moe/moe_config.h"

#include "base/number_text.h"
#include "base/text.h"

#include <algorithm>
#include <numeric>
#include <set>

namespace pimoe {
namespace {

constexpr double kMostExperts = 1023;  // from 1024 groups on libtorch's grouped products are loops (ops/grouped_product.h)

constexpr std::initializer_list<std::pair<const char*, RouterKind>> kRouterKinds = {{"softmax", RouterKind::kSoftmax},
                                                                                    {"sigmoid", RouterKind::kSigmoid},
                                                                                    {"expert_choice", RouterKind::kExpertChoice},
                                                                                    {"hash", RouterKind::kHash},
                                                                                    {"uniform", RouterKind::kUniform}};

}  // namespace

std::optional<RouterKind> router_kind_named(const std::string& word) {
  const auto* const found = std::find_if(kRouterKinds.begin(), kRouterKinds.end(), [&](const auto& each) { return each.first == word; });
  return found == kRouterKinds.end() ? std::nullopt : std::optional(found->second);
}

void RouterConfig::fields(FieldVisitor& visit) {
  visit.choice(
      "kind", kind, kRouterKinds,
      "expert_choice leaks future tokens in causal training (it chooses inside each sequence: the same in every layout); hash and uniform "
      "are baselines that learn nothing");
  visit.flag("pre_softmax", pre_softmax, "softmax over all experts, then top-k; false: top-k, then softmax over the chosen");
  visit.flag("renormalize", renormalize, "divide a token's K gates by their sum");
  visit.number("route_scale", route_scale, {.above = 0, .at_most = kMostCoefficient}, "gates times this (DeepSeek-V3: 2.5)");
  visit.number("temperature", temperature, {.at_least = 1 / kMostCoefficient, .at_most = kMostCoefficient},
               "logits are divided by it before the score function");
  visit.number("jitter", jitter, {.at_least = 0, .below = 1}, "the router's input times U(1 - jitter, 1 + jitter) in training");
  visit.integer("groups", groups, {.at_least = 1, .at_most = kMostExperts},
                "group-limited routing: groups of neighbouring experts (DeepSeek-V3: 8)");
  visit.integer("group_choices", group_choices, {.at_least = 1, .at_most = kMostExperts}, "groups that a token may use (DeepSeek-V3: 4)");
  visit.choice("group_score", group_score, {{"sum", GroupScore::kSum}, {"max", GroupScore::kMax}}, "of its best experts' scores");
  visit.integer_or_auto("group_top", group_top, {.at_least = 1, .at_most = kMostExperts},
                        "best experts that a group's sum takes; auto: choices / group_choices");
  visit.integer("projection", projection, {.at_least = 0, .at_most = 1 << 24},
                "width of a linear projection of the input before scoring; 0: none");
  visit.flag("linear_bias", linear_bias, "a trained bias on the logits");
  visit.number("initial_skew", initial_skew, {.at_least = -kMostCoefficient, .at_most = kMostCoefficient},
               "the first expert's logit bias at the start, for drills; needs linear_bias");
  visit.path("replay", replay, "recorded decisions (log.routing) that training takes again: a file, or a folder of them; empty for none");
}

void ExpertGroupConfig::fields(FieldVisitor& visit) {
  visit.text("name", name, "in parameter names and tables");
  visit.integer("count", count, {.at_least = 1, .at_most = kMostExperts}, "experts of this shape");
  visit.choice("activation", activation,
               {{"swiglu", Activation::kSwiglu},
                {"geglu", Activation::kGeglu},
                {"gelu", Activation::kGelu},
                {"relu", Activation::kRelu},
                {"relu2", Activation::kRelu2},
                {"silu", Activation::kSilu},
                {"tanh", Activation::kTanh}},
               "swiglu and geglu are gated");
  visit.integer("layers", layers, {.at_least = 2, .at_most = 16}, "matrices that a row passes");
  visit.integer_or_auto("width", width, {.at_least = 1, .at_most = 1 << 24}, "hidden width; auto: model.moe.expert_width");
}

void MoeConfig::fields(FieldVisitor& visit) {
  visit.integer("experts", experts, {.at_least = 0, .at_most = kMostExperts}, "experts of each MoE layer; 0: a dense model");
  visit.integer("choices", choices, {.at_least = 1, .at_most = kMostExperts}, "experts that each token is sent to");
  visit.integer("expert_width", expert_width, {.at_least = 1, .at_most = 1 << 24}, "width of an expert's hidden layer");
  visit.integer("shared_width", shared_width, {.at_least = 0, .at_most = 1 << 24}, "width of the expert that every token passes; 0: none");
  visit.flag("shared_gate", shared_gate, "each token weighs that expert by a sigmoid of its own (Qwen2-MoE)");
  visit.flag("shared_overlap", shared_overlap, "on GPUs that share out the experts, that expert computes while tokens travel");
  visit.integer("fallback_width", fallback_width, {.at_least = 0, .at_most = 1 << 24},
                "width of the network for tokens that no expert serves; 0: none");
  visit.integer("first_dense_layers", first_dense_layers, {.at_least = 0, .at_most = 10'000}, "dense layers before the first MoE layer");
  visit.number("capacity_factor", capacity_factor, {.at_least = 0, .at_most = 1024},
               "an expert takes ceil(T K / E * factor) slots of each rank's micro-batch, at most T (the result changes with the layout); "
               "0: dropless");
  visit.choice("capacity_drop", capacity_drop, {{"gate", CapacityDrop::kGate}, {"position", CapacityDrop::kPosition}},
               "beyond its capacity an expert drops the lowest gates, or the last tokens");
  visit.flag("capacity_pad", capacity_pad,
             "pad every expert's rows to its capacity: no counts travel (the result changes with the layout, as the capacity does)");
  visit.number("rank_budget", rank_budget, {.at_least = 0, .at_most = 1 << 20},
               "rows that a rank computes at a time, over its share at balance; 0: unbounded");
  visit.choice("rank_overflow", rank_overflow, {{"chunk", RankOverflow::kChunk}, {"drop", RankOverflow::kDrop}},
               "rows above the budget wait for another round (exact), or are dropped and counted (the result changes with the layout)");
  visit.choice("memory", memory, {{"fast", MoeMemory::kFast}, {"balanced", MoeMemory::kBalanced}, {"lean", MoeMemory::kLean}},
               "kept for backward: results and pre-activations, pre-activations, or the tokens alone");
  visit.choice(
      "exchange", exchange,
      {{"auto", MoeExchange::kAuto}, {"rows", MoeExchange::kRows}, {"tokens", MoeExchange::kTokens}, {"direct", MoeExchange::kDirect}},
      "between ranks a row travels for each slot; or each token once to each rank that holds one of its experts, by all-to-all, or "
      "written into its memory (direct); auto: direct between GPUs that reach each other's memory, else tokens where the layer allows it");
  visit.choice("validate", checks, {{"off", MoeValidate::kOff}, {"cheap", MoeValidate::kCheap}, {"full", MoeValidate::kFull}},
               "cheap: shapes, dtype, device and experts' ids, without waiting for a GPU; full: results that are not finite are set aside "
               "(costs a forward pass)");
  visit.list("groups", groups, "named groups of experts, each of its own shape, instead of experts that are all alike");
  visit.nested("router", router);
  visit.nested("balance", balance);
  visit.nested("adaptive", adaptive);
}

const char* MoeConfig::router_kind() const {
  return std::find_if(kRouterKinds.begin(), kRouterKinds.end(), [this](const auto& each) { return each.second == router.kind; })->first;
}

std::vector<std::string> MoeConfig::rows_have_to_travel() const {
  std::vector<std::string> reasons;
  const std::vector<ExpertGroupConfig> shapes = expert_groups();
  const bool plain = shapes.size() == 1 && shapes[0].activation == Activation::kSwiglu && shapes[0].layers == 2;
  if (!plain) reasons.emplace_back("groups of experts, and with others than two-layer swiglu ones");
  if (router_traits().by_expert) reasons.emplace_back("expert choice");
  if (capacity_pad) reasons.emplace_back("capacity_pad");
  if (checks == MoeValidate::kFull) reasons.emplace_back("validate (full), which looks at each slot's result");
  return reasons;
}

MoeExchange MoeConfig::exchange_between() const {
  return exchange == MoeExchange::kAuto && !rows_have_to_travel().empty() ? MoeExchange::kRows : exchange;
}

std::vector<ExpertGroupConfig> MoeConfig::expert_groups() const {
  std::vector<ExpertGroupConfig> all = groups;
  if (all.empty() && experts > 0) all.push_back({.name = "", .count = experts});
  for (ExpertGroupConfig& group : all) {
    if (group.width == 0) group.width = expert_width;
  }
  return all;
}

std::string spread_trouble(int64_t count, int64_t shards) {
  if (count % shards == 0) return "";
  std::vector<std::string> divisors;
  for (int64_t candidate = 1; candidate <= count; ++candidate) {
    if (count % candidate == 0) divisors.push_back(concat(candidate));
  }
  const int64_t below = count / shards * shards;
  return concat("(", count, ") must be divisible by mesh.expert_parallel (", shards,
                "). Nearest that works: ", below == 0 ? "" : concat(below, " or "), below + shards, ", or expert_parallel ",
                join(divisors, ", "));
}

int64_t MoeConfig::common_divisor() const {
  int64_t divisor = 0;
  for (const ExpertGroupConfig& group : expert_groups()) divisor = std::gcd(divisor, group.count);
  return divisor;
}

void MoeConfig::validate(const char* key, Violations& violations) const {
  if (experts == 0) return;
  adaptive.validate(concat(key, ".adaptive").c_str(), violations);
  const auto add = [&](const char* name, const auto&... rule) { violations.add(concat(key, ".", name), concat(rule...)); };
  if (controlled() && balance.bias_rate > 0) {
    add("balance.bias_rate", "(", shortest(balance.bias_rate), ") must be 0 with ", key, ".adaptive.enabled: control sets the rate, from ",
        key, ".adaptive.bias_rate_start");
  }
  if (choices > experts) add("choices", "(", choices, ") must be at most ", key, ".experts (", experts, ")");
  if (router.groups > 1) {
    if (!steerable()) add("router.groups", "(", router.groups, ") must be 1 for this router.kind: softmax and sigmoid alone have groups");
    if (experts % router.groups != 0) {
      add("router.groups", "(", router.groups, ") must divide ", key, ".experts (", experts, ")");
    } else {
      const int64_t group = experts / router.groups;
      if (router.group_choices > router.groups) {
        add("router.group_choices", "(", router.group_choices, ") must be at most ", key, ".router.groups (", router.groups, ")");
      } else if (choices > router.group_choices * group) {
        add("choices", "(", choices, ") must be at most the experts of router.group_choices groups (", router.group_choices * group, ")");
      }
      if (router.group_top > group) add("router.group_top", "(", router.group_top, ") must be at most a group's experts (", group, ")");
    }
  }
  if (router.initial_skew != 0 && !router.linear_bias) {
    add("router.initial_skew", "(", shortest(router.initial_skew), ") needs ", key, ".router.linear_bias: true");
  }
  if (router_traits().by_expert && capacity_factor > 0) {
    add("capacity_factor", "(", shortest(capacity_factor),
        ") must be 0: with expert choice every expert takes choices * S / E tokens of a sequence");
  }
  if (capacity_pad && capacity_factor == 0) add("capacity_pad", "needs ", key, ".capacity_factor above 0");
  if (capacity_pad && rank_budget > 0) add("capacity_pad", "(true) must be false with ", key, ".rank_budget (", shortest(rank_budget), ")");
  if (exchange == MoeExchange::kTokens || exchange == MoeExchange::kDirect) {
    const char* name = exchange == MoeExchange::kTokens ? "tokens" : "direct";
    for (const std::string& reason : rows_have_to_travel()) add("exchange", "(", name, ") must be rows or auto with ", reason);
  }
  if (rank_budget > 0 && rank_budget < 1) {
    add("rank_budget", "(", shortest(rank_budget), ") must be 0, or at least 1: a rank's share at balance has to fit");
  }
  if (!groups.empty()) {
    int64_t sum = 0;
    std::set<std::string> names;
    for (size_t index = 0; index < groups.size(); ++index) {
      const ExpertGroupConfig& group = groups[index];
      sum += group.count;
      const std::string name = concat("groups[", index, "].name");
      const bool plain =
          group.name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == std::string::npos;
      if (group.name.empty()) {
        add(name.c_str(), "is missing: it becomes part of parameter names");
      } else if (!plain) {
        add(name.c_str(), "('", group.name, "') must be of letters, digits, _ and -: it becomes part of parameter names");
      } else if (!names.insert(group.name).second) {
        add(name.c_str(), "(", group.name, ") is taken by another group");
      }
    }
    if (sum != experts) add("experts", "(", experts, ") must be the sum of the groups' counts (", sum, ")");
  }
}

}  // namespace pimoe
