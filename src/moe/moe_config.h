#pragma once

#include "base/config_fields.h"
#include "moe/adaptive_control.h"

#include <cstdint>

namespace pimoe {

/// How experts are chosen.
enum class RouterKind {
  kSoftmax,  ///< softmax top-k
  kUniform,  ///< a baseline that learns nothing: row t's choice k is expert (t K + k) mod E, gates 1 / K
};

/// `model.moe.router:`
struct RouterConfig {
  RouterKind kind = RouterKind::kSoftmax;
  bool renormalize = true;  ///< the K gates of a token are divided by their sum (Mixtral, Qwen3); false keeps the softmax values (OLMoE)

  void fields(FieldVisitor& visit);
};

/// `model.moe.balance:` each rule with its coefficient; 0 turns it off.
struct BalanceConfig {
  double switch_loss = 1e-2;  ///< times E * sum_i f_i P_i, f and P over all ranks' tokens of one micro-step
  double z_loss = 1e-3;       ///< times the mean of logsumexp(logits)^2
  double bias_rate = 0.0;     ///< loss-free bias: b_i += rate * sign(mean load - load_i) after each step

  void fields(FieldVisitor& visit);
};

/// `model.moe:`
struct MoeConfig {
  int64_t experts = 8;             ///< E; 0 makes every layer dense
  int64_t choices = 2;             ///< K
  int64_t expert_width = 512;      ///< F
  int64_t shared_width = 0;        ///< width of an expert that every token passes; 0: none
  int64_t first_dense_layers = 0;  ///< layers before the first MoE layer
  double capacity_factor = 0.0;    ///< 0: dropless, no slot is ever dropped
  RouterConfig router;
  BalanceConfig balance;
  AdaptiveConfig adaptive;

  void fields(FieldVisitor& visit);
  /// @param key  of this struct, "model.moe"
  void validate(const char* key, Violations& violations) const;
};

}  // namespace pimoe
