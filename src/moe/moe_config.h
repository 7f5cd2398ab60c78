#pragma once

#include "base/config_fields.h"
#include "moe/adaptive_config.h"
#include "moe/balance_config.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// How experts are chosen; router.h has each formula.
enum class RouterKind {
  kSoftmax,       ///< top-k of the softmax (arXiv 2101.03961; Mixtral, arXiv 2401.04088)
  kSigmoid,       ///< top-k of sigmoids (DeepSeek-V3, arXiv 2412.19437 eq. 12-16)
  kExpertChoice,  ///< each expert takes its best tokens (arXiv 2202.09368); leaks future tokens in causal training
  kHash,          ///< a baseline: a token id's experts are drawn once (arXiv 2106.04426)
  kUniform,       ///< a baseline: token t's choice k is expert (t K + k) mod E, gates 1 / K
};

/// What the rest of the code asks of a router's kind.
struct RouterTraits {
  bool has_scores;  ///< a trained weight scores the experts; else a token's experts are known beforehand, and its gates are 1 / K
  bool steerable;   ///< a loss, a bias or a temperature can move what it decides, and groups limit it; the others balance by themselves
  bool by_expert;   ///< experts choose tokens: a token has a slot for each of the E experts, most of which go nowhere
  bool even;        ///< every expert has as many slots as another, whatever the tokens are
};

constexpr RouterTraits traits_of(RouterKind kind) {
  switch (kind) {
    case RouterKind::kSoftmax:
    case RouterKind::kSigmoid: return {.has_scores = true, .steerable = true, .by_expert = false, .even = false};
    case RouterKind::kExpertChoice: return {.has_scores = true, .steerable = false, .by_expert = true, .even = true};
    case RouterKind::kHash: return {.has_scores = false, .steerable = false, .by_expert = false, .even = false};
    case RouterKind::kUniform: return {.has_scores = false, .steerable = false, .by_expert = false, .even = true};
  }
  return {};
}

/// @returns the kind that a word of router.kind names; nothing if there is none of that name
std::optional<RouterKind> router_kind_named(const std::string& word);

/// How a group's score follows from its experts' scores, in group-limited routing.
enum class GroupScore { kSum, kMax };

/// `model.moe.router:`
struct RouterConfig {
  RouterKind kind = RouterKind::kSoftmax;
  bool pre_softmax = true;    ///< softmax over all experts, then top-k; false: top-k of the logits, then softmax over the chosen
  bool renormalize = true;    ///< the K gates of a token are divided by their sum (Mixtral, Qwen3); false keeps the scores (OLMoE)
  double route_scale = 1.0;   ///< gates times this (DeepSeek-V3: 2.5)
  double temperature = 1.0;   ///< logits are divided by it before the score function
  double jitter = 0.0;        ///< the router's input times U(1 - jitter, 1 + jitter) in training
  int64_t groups = 1;         ///< G: experts in G groups of neighbours, of which a token may use group_choices
  int64_t group_choices = 1;  ///< M
  GroupScore group_score = GroupScore::kSum;
  int64_t group_top = 0;         ///< n: a group's score is the sum of its best n; 0 is auto: K / M
  int64_t projection = 0;        ///< width of a linear projection of the input before scoring; 0: none
  bool linear_bias = false;      ///< a trained bias on the logits
  double initial_skew = 0.0;     ///< the first expert's logit bias at the start: a badly skewed router on purpose, for drills
  std::filesystem::path replay;  ///< recorded decisions (log.routing) that training takes again: a file or a folder; empty: none

  /// Whether selection and gates come from the logits, with a softmax over the chosen alone.
  bool by_logits() const { return kind == RouterKind::kSoftmax && !pre_softmax; }
  /// Whether a token's gates add up to 1, before route_scale.
  bool normalises() const { return renormalize || by_logits(); }
  void fields(FieldVisitor& visit);
};

enum class Activation { kSwiglu, kGeglu, kGelu, kRelu, kRelu2, kSilu, kTanh };

/// Whether an expert has a gate beside its up matrix.
constexpr bool is_gated(Activation activation) { return activation == Activation::kSwiglu || activation == Activation::kGeglu; }

/// One entry of `model.moe.groups:` experts of one shape.
struct ExpertGroupConfig {
  std::string name;
  int64_t count = 1;  ///< experts
  Activation activation = Activation::kSwiglu;
  int64_t layers = 2;  ///< matrices that a row passes; gate and up count as one
  int64_t width = 0;   ///< F; 0 is auto: expert_width

  void fields(FieldVisitor& visit);
};

/// Which slots an expert beyond its capacity gives up.
enum class CapacityDrop { kGate, kPosition };
/// What happens to rows above a rank's budget.
enum class RankOverflow { kChunk, kDrop };
/// What a layer keeps for its backward pass.
enum class MoeMemory {
  kFast,      ///< inputs, pre-activations and the experts' results
  kBalanced,  ///< inputs and pre-activations: the gates' gradient comes from the hidden activations
  kLean,      ///< the tokens alone: dispatch and experts run again
};
/// What travels between the ranks of an expert group.
enum class MoeExchange {
  kRows,    ///< a row for each slot
  kTokens,  ///< each token once to each rank that holds one of its experts; what they make of it comes back as one sum
  kDirect,  ///< likewise, written straight into the other ranks' memory
  kAuto,    ///< the last of these that the layer and the ranks allow; direct between GPUs alone
};
enum class MoeValidate {
  kOff,
  kCheap,  ///< shapes, dtype and device of what enters a layer, and the experts' ids; nothing that waits for a GPU
  kFull,   ///< and results that are not finite: one more forward pass of the experts, and host synchronisations
};

/// @returns "", or what is wrong with spreading `count` experts of one shape over mesh.expert_parallel = `shards` ranks, and what works
std::string spread_trouble(int64_t count, int64_t shards);

/// `model.moe:`
struct MoeConfig {
  int64_t experts = 8;             ///< E; 0 makes every layer dense; with `groups` their sum
  int64_t choices = 2;             ///< K
  int64_t expert_width = 512;      ///< F
  int64_t shared_width = 0;        ///< width of an expert that every token passes; 0: none
  bool shared_gate = false;        ///< a token's share of that expert is sigmoid(gate . token) (Qwen2-MoE)
  bool shared_overlap = false;     ///< on GPUs it computes while tokens travel between ranks
  int64_t fallback_width = 0;      ///< width of a dense network for tokens that no expert serves; 0: none
  int64_t first_dense_layers = 0;  ///< layers before the first MoE layer
  double capacity_factor = 0.0;    ///< an expert takes ceil(T K / E * factor) slots of a rank's micro-batch; 0: dropless
  CapacityDrop capacity_drop = CapacityDrop::kGate;
  bool capacity_pad = false;  ///< every expert gets exactly its capacity of rows from each rank: no counts travel
  double rank_budget = 0.0;   ///< rows that a rank computes at a time, in multiples of its share at balance; 0: unbounded
  RankOverflow rank_overflow = RankOverflow::kChunk;
  MoeMemory memory = MoeMemory::kFast;
  MoeExchange exchange = MoeExchange::kAuto;
  MoeValidate checks = MoeValidate::kOff;
  std::vector<ExpertGroupConfig> groups;  ///< named groups of experts, each of its own shape; empty: all alike
  RouterConfig router;
  BalanceConfig balance;
  AdaptiveConfig adaptive;

  void fields(FieldVisitor& visit);
  /// @param key  of this struct, "model.moe"
  void validate(const char* key, Violations& violations) const;

  /// Why tokens cannot travel in place of rows, one line each.
  std::vector<std::string> rows_have_to_travel() const;
  /// The word of router.kind.
  const char* router_kind() const;
  RouterTraits router_traits() const { return traits_of(router.kind); }
  bool steerable() const { return router_traits().steerable; }
  /// Columns of Routing::experts.
  int64_t slots_per_token() const { return router_traits().by_expert ? experts : choices; }
  /// Whether adaptive control runs: it is enabled, and there is something to move.
  bool controlled() const { return adaptive.enabled && steerable(); }
  /// The experts' shapes: `groups`, or one nameless group of all experts.
  std::vector<ExpertGroupConfig> expert_groups() const;
  /// `exchange`, where auto is rows if nothing else is possible.
  MoeExchange exchange_between() const;
  /// What mesh.expert_parallel has to divide: the greatest common divisor of the groups' counts; 0 in a dense model.
  int64_t common_divisor() const;
  /// Whether a rank gives up rows above its budget.
  bool drops_above_budget() const { return rank_budget > 0 && rank_overflow == RankOverflow::kDrop; }
  /// Whether slots may be dropped. Which ones goes by ranks, and changes with the layout.
  bool may_drop() const { return capacity_factor > 0 || drops_above_budget(); }
};

}  // namespace pimoe
