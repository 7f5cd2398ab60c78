#include "moe/routed_rows.h"

#include "moe/capacity.h"
#include "moe/expert_bank.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pimoe {
namespace {

/// What `exchange` means for ranks that nobody has started.
MoeExchange planned_exchange(const MoeConfig& config, const RoutedTokens& tokens) {
  const MoeExchange exchange = config.exchange_between();
  if (exchange != MoeExchange::kAuto) return exchange;
  return tokens.reach_each_other ? MoeExchange::kDirect : MoeExchange::kTokens;
}

/// A micro-batch, as what limits it looks at it.
struct Batch {
  Batch(const MoeConfig& moe, const RoutedTokens& shared)
      : config(moe),
        tokens(shared),
        groups(moe.expert_groups()),
        ranks(static_cast<int64_t>(shared.of_rank.size())),
        local(moe.experts / ranks),
        all_tokens(std::accumulate(shared.of_rank.begin(), shared.of_rank.end(), int64_t{0})),
        most_tokens(*std::max_element(shared.of_rank.begin(), shared.of_rank.end())) {}

  /// Slots that an expert can have of one rank's tokens: capacity is each rank's own.
  int64_t most_slots(int64_t of_rank) const {
    const int64_t limit = slot_limit(config, of_rank, most_tokens);
    return limit > 0 ? std::min(of_rank, limit) : of_rank;
  }

  /// Adds each bank's rows, of `each` for an expert.
  void add_rows(RoutedRows& result, int64_t each) const {
    for (const ExpertGroupConfig& group : groups) result.rows.push_back(group.count / ranks * each);
  }

  const MoeConfig& config;
  const RoutedTokens& tokens;
  std::vector<ExpertGroupConfig> groups;
  int64_t ranks, local;  // P, L
  int64_t all_tokens, most_tokens;
};

/// Rows of each bank when `total` rows fill the dearest experts first, each up to `most`.
std::vector<int64_t> dearest_first(const std::vector<ExpertGroupConfig>& groups, int64_t ranks, int64_t most, int64_t total) {
  std::vector<size_t> order(groups.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto cost = [&](size_t bank) { return kept_bytes_of_expert_row(groups[bank], {}, false, true); };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return cost(a) > cost(b); });
  std::vector<int64_t> rows(groups.size());
  for (const size_t bank : order) {
    rows[bank] = std::min(total, groups[bank].count / ranks * most);
    total -= rows[bank];
  }
  return rows;
}

/// Experts take the same number of every sequence, however the tokens score.
void fill_by_choosing_experts(const Batch& batch, RoutedRows& result) {
  const int64_t length = batch.tokens.sequence_length;
  const int64_t each = tokens_of_choosing_expert(batch.config, length);
  batch.add_rows(result, batch.all_tokens / length * each);
  result.sent = batch.config.experts * (result.tokens / length) * each;
}

/// Every expert gets its capacity from every rank, whatever the router says.
void fill_padded(const Batch& batch, RoutedRows& result) {
  const int64_t each = slot_limit(batch.config, result.tokens, batch.most_tokens);
  batch.add_rows(result, batch.ranks * each);
  result.sent = result.padded = batch.config.experts * each;
}

/// Tokens choose, as unevenly as `skew` says and limits allow.
void fill_by_skew(const Batch& batch, double skew, RoutedRows& result) {
  const int64_t experts = batch.config.experts;
  const int64_t choices = batch.config.choices;
  double balanced = 0.0;  // rows of an expert
  int64_t most = 0;       // likewise
  int64_t worst = 0;      // rows of the rank
  for (const int64_t source : batch.tokens.of_rank) {
    const double even = static_cast<double>(source * choices) / static_cast<double>(experts);
    const int64_t limit = batch.most_slots(source);
    balanced += std::min(even, static_cast<double>(limit));
    most += limit;
    worst += std::min(source * std::min(choices, batch.local), batch.local * limit);
  }
  const double at_balance = balanced * static_cast<double>(batch.local);
  const double most_skew = std::max(1.0, static_cast<double>(worst) / std::max(1.0, at_balance));
  // From balance (0) to the worst (1). Where the rank has all experts it has all rows, and skew only says which.
  const bool uneven = !batch.config.router_traits().even && skew > 1.0;
  const double way = !uneven ? 0.0 : most_skew > 1.0 ? (std::min(skew, most_skew) - 1.0) / (most_skew - 1.0) : 1.0;
  const auto between = [&](double even, int64_t full) -> int64_t { return std::llround(even + way * (static_cast<double>(full) - even)); };
  const std::vector<int64_t> full = dearest_first(batch.groups, batch.ranks, most, worst);
  for (size_t bank = 0; bank < batch.groups.size(); ++bank) {
    const double share = static_cast<double>(batch.groups[bank].count) / static_cast<double>(experts);
    result.rows.push_back(between(std::min(skew, 1.0) * at_balance * share, full[bank]));
  }
  const int64_t limit = batch.most_slots(result.tokens);
  const int64_t here = std::min(choices, batch.local);
  const int64_t sent_at_worst =
      std::min(result.tokens * here, batch.local * limit) + std::min(result.tokens * (choices - here), (experts - batch.local) * limit);
  result.sent = between(static_cast<double>(std::min(result.slots, experts * limit)), sent_at_worst);
  if (result.exchange == MoeExchange::kRows) return;

  // A token that chooses K of E experts blindly misses all L of a rank with the chance of (E - L over K) / (E over K).
  double missed = 1.0;
  for (int64_t choice = 0; choice < choices; ++choice) {
    missed *= std::max(0.0, static_cast<double>(experts - batch.local - choice)) / static_cast<double>(experts - choice);
  }
  result.arrived = result.exchange == MoeExchange::kDirect
                       ? batch.ranks * batch.most_tokens
                       : std::min(between((1 - missed) * static_cast<double>(batch.all_tokens), batch.all_tokens), result.all_rows());
  // At worst a token has the rank's experts and, beyond them, those of as many others as are left to choose.
  const int64_t ranks_at_worst = 1 + std::min(batch.ranks - 1, choices - here);
  result.copies =
      std::min(between((1 - missed) * static_cast<double>(batch.ranks * result.tokens), result.tokens * ranks_at_worst), result.sent);
}

/// Rows above the rank's budget wait for another round, or are dropped.
void bound_by_budget(const Batch& batch, RoutedRows& result) {
  const int64_t received = result.all_rows();
  const int64_t budget = rows_within_budget(batch.config, batch.all_tokens * batch.config.slots_per_token(), batch.ranks);
  if (received <= budget) return;
  if (batch.config.rank_overflow == RankOverflow::kChunk) {
    result.rounds = rounds_of_budget(received, budget);
    result.rows_at_once = received / result.rounds + batch.ranks;  // shares are rounded on each source
    return;
  }
  for (int64_t& rows : result.rows) {
    rows = rounded_up(static_cast<double>(rows) * static_cast<double>(budget) / static_cast<double>(received));
  }
  result.sent -= static_cast<int64_t>(static_cast<double>(received - budget) * static_cast<double>(result.tokens) /
                                      static_cast<double>(std::max<int64_t>(1, batch.all_tokens)));
  result.rows_at_once = result.all_rows();
}

}  // namespace

int64_t RoutedRows::all_rows() const { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); }

RoutedRows routed_rows(const MoeConfig& config, const RoutedTokens& tokens, double skew) {
  const Batch batch(config, tokens);
  RoutedRows result;
  result.tokens = tokens.of_rank[0];
  result.slots = result.tokens * config.slots_per_token();
  if (batch.ranks > 1) result.exchange = planned_exchange(config, tokens);
  if (config.router_traits().by_expert) {
    fill_by_choosing_experts(batch, result);
  } else if (config.capacity_pad) {
    fill_padded(batch, result);
  } else {
    fill_by_skew(batch, skew, result);
  }
  result.rows_at_once = result.all_rows();
  if (config.rank_budget > 0) bound_by_budget(batch, result);
  result.room = result.all_rows();
  const bool stays_here = batch.ranks == 1 && !config.capacity_pad;
  const bool one_bank = batch.groups.size() == 1;
  result.on_gpu = tokens.on_gpu;
  result.fused = tokens.fuses_mlp && one_bank && (stays_here || result.exchange != MoeExchange::kRows);
  if (tokens.on_gpu && stays_here && result.rounds == 1) {
    result.room = result.sent = result.rows_at_once = result.slots;
    // Products of one bank are as long as the room; those of several are cut to what each bank has.
    if (one_bank) result.rows[0] = result.slots;
  }
  return result;
}

std::vector<double> skews_to_bear(const MoeConfig& config, double skew) {
  if (skew != kWorstSkew || config.rank_budget == 0 || config.rank_overflow != RankOverflow::kChunk) return {skew};
  return {1.0, config.rank_budget, skew};
}

}  // namespace pimoe
