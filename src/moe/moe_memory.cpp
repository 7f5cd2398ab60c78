#include "moe/moe_memory.h"

#include "moe/exchange_dispatcher.h"
#include "moe/expert_bank.h"
#include "moe/router.h"
#include "moe/shared_expert.h"
#include "ops/routed_mlp.h"

#include <algorithm>

namespace pimoe {
namespace {

constexpr int64_t kIndex = 4;  ///< bytes of a slot's number

/// Most that backward of the experts' products needs at one time, of one round.
int64_t products_workspace(const MoeConfig& config, int64_t width, const RoutedRows& rows, int64_t group_size, ElementBytes bytes,
                           bool gates_early) {
  const double part = static_cast<double>(rows.rows_at_once) / static_cast<double>(std::max<int64_t>(1, rows.room));
  const int64_t row = width * bytes.compute;
  int64_t products = 0;
  int64_t weights = 0;
  const std::vector<ExpertGroupConfig> groups = config.expert_groups();
  for (size_t bank = 0; bank < groups.size(); ++bank) {
    const ExpertGroupConfig& group = groups[bank];
    const int64_t hidden = group.width * bytes.compute;
    const int64_t in = is_gated(group.activation) ? 2 : 1;
    // Gradients of the result (weighed too where gates are early), of the hidden rows, of what was before them, and of the row; and the
    // hidden rows once more. Early gates get their gradient from wide copies.
    int64_t one = (gates_early ? 3 : 2) * row + (2 + in) * hidden + (gates_early ? 2 * group.width * bytes.wide + hidden : 0);
    if (groups.size() > 1) one += row;  // banks' gradients are joined
    products += static_cast<int64_t>(part * static_cast<double>(rows.rows[bank] * one));
    weights += group.count / group_size * ((in + 1) * group.width * width + (group.layers - 2) * group.width * group.width) * bytes.compute;
  }
  return products + weights;
}

/// The same of rows and results on their way.
int64_t exchange_workspace(const RoutedRows& rows, int64_t row, int64_t group_size) {
  if (rows.exchange != MoeExchange::kRows) return (rows.arrived + rows.copies + rows.tokens) * row;
  const double part = static_cast<double>(rows.rows_at_once) / static_cast<double>(std::max<int64_t>(1, rows.room));
  const int64_t sent = static_cast<int64_t>(part * static_cast<double>(rows.sent));
  return group_size > 1 ? (sent + 2 * rows.rows_at_once) * row : 2 * sent * row;
}

/// Whether the experts take tokens and give tokens: ExpertBank::fuses_routing.
bool fuses_routing(const MoeConfig& config, int64_t width, const RoutedRows& rows) {
  const ExpertGroupConfig group = config.expert_groups()[0];
  const int64_t step = rows.on_gpu ? 8 : 2;  // of widths: fuses_routed_mlp
  return rows.fused && group.activation == Activation::kSwiglu && group.layers == 2 && width % step == 0 && group.width % step == 0;
}

RoutedMlpBytes fused_bytes(const MoeConfig& config, int64_t width, const RoutedRows& rows, int64_t at_once) {
  const ExpertGroupConfig group = config.expert_groups()[0];
  const int64_t tokens = rows.exchange == MoeExchange::kRows ? rows.tokens : rows.arrived;
  return routed_mlp_bytes(tokens, at_once, group.count, width, group.width, rows.on_gpu);
}

}  // namespace

MoeBytes moe_bytes(const MoeConfig& config, int64_t width, int64_t sequence_length, const RoutedRows& rows, int64_t group_size,
                   ElementBytes bytes, bool recomputed) {
  const RouterKept router = kept_by_router(config, rows.tokens, width, sequence_length, bytes);
  const bool fused = fuses_routing(config, width, rows);
  const bool by_token = rows.exchange != MoeExchange::kRows;
  const bool early = config.memory != MoeMemory::kFast && !fused;
  const bool again = config.memory == MoeMemory::kLean || rows.rounds > 1;
  const int64_t row = width * bytes.compute;
  const int64_t received = rows.room;
  const auto plans = [&](bool whole) {
    if (!by_token) return kept_bytes_of_plans(rows.slots, received, rows.rounds, rows.padded, group_size, whole);
    const bool direct = rows.exchange == MoeExchange::kDirect;
    return rows.rounds * kept_bytes_of_token_plan(rows.tokens, config.choices, rows.arrived, group_size, bytes.wide, direct, whole);
  };

  // One round through dispatch, experts and combine with everything kept: what `again` spares, and then needs in backward.
  const double part = static_cast<double>(rows.rows_at_once) / static_cast<double>(std::max<int64_t>(1, received));
  const auto of_round = [&](int64_t all) { return rows.rounds > 1 ? static_cast<int64_t>(part * static_cast<double>(all)) : all; };
  int64_t moved = fused ? 0 : received * row;
  if (by_token) moved += rows.rounds * rows.arrived * config.choices * bytes.wide;  // gates, or ones in their place
  // Fused experts keep the arrived tokens in place of rows, and the order of their slots with the places that no row takes.
  if (by_token && fused)
    moved += rows.rounds * rows.arrived * (row + config.choices * kIndex) -
             std::min(received, rows.rounds * rows.arrived * config.choices) * kIndex;
  if (early && !by_token) moved += rows.slots * bytes.wide;  // ones in place of gates
  if (!early && !fused && router.gates_learn)
    moved += (group_size > 1 && !by_token ? rows.sent : received) * row;  // results, for the gates' gradient
  int64_t computed = 0;
  const std::vector<ExpertGroupConfig> groups = config.expert_groups();
  for (size_t bank = 0; bank < groups.size(); ++bank) {
    computed += fused ? fused_bytes(config, width, rows, received).kept
                      : rows.rows[bank] * kept_bytes_of_expert_row(groups[bank], bytes, early, router.gates_learn);
  }

  MoeBytes result;
  result.router = router.decision + router.scores;
  result.tokens = router.tokens || (fused && !by_token) || again || config.shared_width > 0;
  result.dispatch = plans(again) + (again ? 0 : moved);
  result.experts = again ? 0 : computed;
  if (config.shared_width > 0) result.others = kept_by_shared_expert(rows.tokens, width, config.shared_width, config.shared_gate, bytes);
  if (config.fallback_width > 0) result.others += rows.tokens * (row + 2 * config.fallback_width * bytes.compute + 2);
  result.workspace = fused ? fused_bytes(config, width, rows, rows.rows_at_once).backward
                           : products_workspace(config, width, rows, group_size, bytes, early);
  if (by_token) result.workspace += rows.arrived * row;  // the arrived results' gradients
  if (!fused || by_token) result.workspace = std::max(result.workspace, exchange_workspace(rows, row, group_size));
  if (rows.exchange == MoeExchange::kDirect) result.workspace += rows.arrived * row;  // memory that the other ranks reach, which stays
  if (again) result.workspace += of_round(moved) + of_round(computed);
  if (!recomputed) return result;
  result.workspace += result.kept();
  result.router = router.decision;
  result.dispatch = plans(/*whole=*/true);
  if (config.fallback_width > 0) result.dispatch += rows.tokens;  // which tokens no expert serves
  result.experts = result.others = 0;
  result.tokens = false;
  return result;
}

}  // namespace pimoe
