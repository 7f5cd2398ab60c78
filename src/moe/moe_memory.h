#pragma once

#include "moe/moe_config.h"
#include "moe/routed_rows.h"
#include "parallel/precision.h"

#include <cstdint>

namespace pimoe {

/// What a MoE layer's forward pass (moe_layer.cpp) keeps, in formulas: rows come from routed_rows.h, each part's own bytes from kept_by_router,
/// kept_bytes_of_plans and kept_bytes_of_expert_row. Whoever changes what is saved there changes this.
///
/// Bytes that a MoE layer keeps for backward, and needs while backward runs through it.
struct MoeBytes {
  int64_t router = 0;    ///< scores, gates, decisions
  int64_t dispatch = 0;  ///< plans, rows and results
  int64_t experts = 0;
  int64_t others = 0;   ///< shared and fallback networks
  bool tokens = false;  ///< its input is kept, counted by whoever made it
  /// At most at one time in backward, beside all that is kept; what `memory: lean` and rounds compute again included.
  int64_t workspace = 0;

  int64_t kept() const { return router + dispatch + experts + others; }
};

/// @param rows        what routing brings  @param group_size  ranks that share out the experts
/// @param recomputed  the whole layer runs again in backward: of its forward the decisions alone are kept
MoeBytes moe_bytes(const MoeConfig& config, int64_t width, int64_t sequence_length, const RoutedRows& rows, int64_t group_size,
                   ElementBytes bytes, bool recomputed);

}  // namespace pimoe
