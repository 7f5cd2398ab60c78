#include "moe/routed_rows.h"

#include "moe/capacity.h"
#include "moe/expert_bank.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pimoe {
namespace {

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

}  // namespace

int64_t RoutedRows::all_rows() const { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); }

RoutedRows routed_rows(const MoeConfig& config, const RoutedTokens& tokens, double skew) {
  const std::vector<ExpertGroupConfig> groups = config.expert_groups();
  const auto ranks = static_cast<int64_t>(tokens.of_rank.size());
  const int64_t experts = config.experts;
  const int64_t local = experts / ranks;
  const int64_t choices = config.choices;
  const int64_t all_tokens = std::accumulate(tokens.of_rank.begin(), tokens.of_rank.end(), int64_t{0});
  const int64_t most_tokens = *std::max_element(tokens.of_rank.begin(), tokens.of_rank.end());
  const bool by_expert = config.router.kind == RouterKind::kExpertChoice;

  RoutedRows result;
  result.tokens = tokens.of_rank[0];
  result.slots = result.tokens * (by_expert ? experts : choices);
  if (by_expert) {
    const int64_t length = tokens.sequence_length;
    const int64_t each = std::min(length, (choices * length + experts - 1) / experts);
    for (const ExpertGroupConfig& group : groups) result.rows.push_back(group.count / ranks * (all_tokens / length) * each);
    result.sent = experts * (result.tokens / length) * each;
  } else {
    // One source at a time: capacity is each rank's own, of its tokens (MoELayer::capacity).
    const auto capacity_of = [&](int64_t source) { return expert_capacity(config, config.capacity_pad ? most_tokens : source); };
    double balanced = 0.0;  // rows of an expert
    int64_t most = 0;       // likewise
    int64_t worst = 0;      // rows of the rank
    int64_t padded = 0;     // of an expert
    for (const int64_t source : tokens.of_rank) {
      const double even = static_cast<double>(source * choices) / static_cast<double>(experts);
      const int64_t limit = config.capacity_factor > 0 ? std::min(source, capacity_of(source)) : source;
      balanced += std::min(even, static_cast<double>(limit));
      most += limit;
      worst += std::min(source * std::min(choices, local), local * limit);
      padded += config.capacity_pad ? capacity_of(source) : 0;
    }
    if (config.capacity_pad) {
      result.sent = result.padded = experts * capacity_of(result.tokens);
      for (const ExpertGroupConfig& group : groups) result.rows.push_back(group.count / ranks * padded);
    } else {
      const double at_balance = balanced * static_cast<double>(local);
      const double most_skew = std::max(1.0, static_cast<double>(worst) / std::max(1.0, at_balance));
      // From balance (0) to the worst (1). Where the rank has all experts it has all rows, and skew only says which.
      const bool steered = config.router.kind != RouterKind::kUniform && skew > 1.0;
      const double way = !steered ? 0.0 : most_skew > 1.0 ? (std::min(skew, most_skew) - 1.0) / (most_skew - 1.0) : 1.0;
      const auto between = [&](double even, int64_t full) { return std::llround(even + way * (static_cast<double>(full) - even)); };
      const std::vector<int64_t> full = dearest_first(groups, ranks, most, worst);
      for (size_t bank = 0; bank < groups.size(); ++bank) {
        const double share = static_cast<double>(groups[bank].count) / static_cast<double>(experts);
        result.rows.push_back(between(std::min(skew, 1.0) * at_balance * share, full[bank]));
      }
      const int64_t limit = config.capacity_factor > 0 ? std::min(result.tokens, capacity_of(result.tokens)) : result.tokens;
      const int64_t here = std::min(choices, local);
      const int64_t sent_at_worst =
          std::min(result.tokens * here, local * limit) + std::min(result.tokens * (choices - here), (experts - local) * limit);
      result.sent = between(static_cast<double>(std::min(result.slots, experts * limit)), sent_at_worst);
    }
  }

  const int64_t received = result.all_rows();
  result.rows_at_once = received;
  if (config.rank_budget > 0) {
    const int64_t budget = rows_within_budget(config, all_tokens * (by_expert ? experts : choices), ranks);
    if (received > budget && config.rank_overflow == RankOverflow::kDrop) {
      for (int64_t& rows : result.rows) {
        rows = rounded_up(static_cast<double>(rows) * static_cast<double>(budget) / static_cast<double>(received));
      }
      result.sent -= static_cast<int64_t>(static_cast<double>(received - budget) * static_cast<double>(result.tokens) /
                                          static_cast<double>(std::max<int64_t>(1, all_tokens)));
      result.rows_at_once = result.all_rows();
    } else if (received > budget) {
      result.rounds = (received + budget - 1) / budget;
      result.rows_at_once = received / result.rounds + ranks;  // shares are rounded on each source
    }
  }
  if (tokens.on_gpu && ranks == 1 && groups.size() == 1 && result.rounds == 1 && !config.capacity_pad) {
    result.rows[0] = result.sent = result.rows_at_once = result.slots;
  }
  return result;
}

}  // namespace pimoe
