#include "data/blend_order.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <queue>
#include <tuple>
#include <utility>

#include "base/errors.h"

namespace pimoe {
namespace {

/// Shares that differ by less are the same number, written with other roundings.
constexpr double kRounding = 1e-15;

/// Whole numbers that add up to `period`, nearly in proportion to weights of which `ends` are the sums so far, over the sum of all.
std::vector<int64_t> counts_in(int64_t period, const std::vector<double>& ends) {
  std::vector<int64_t> counts;
  int64_t before = 0;
  for (const double end : ends) {
    const int64_t here = std::llround(end * static_cast<double>(period));
    counts.push_back(here - before);
    before = here;
  }
  return counts;
}

/// The most that a share is off, or any number from `limit` on where that is more; infinity where a corpus would never be read.
double error_of(int64_t period, const std::vector<double>& shares, const std::vector<double>& ends, double limit) {
  double error = 0.0;
  int64_t before = 0;
  for (size_t i = 0; i < shares.size() && error < limit; ++i) {
    const int64_t here = std::llround(ends[i] * static_cast<double>(period));
    if (here == before) return INFINITY;
    error = std::max(error, std::fabs(static_cast<double>(here - before) / static_cast<double>(period) - shares[i]));
    before = here;
  }
  return error;
}

std::vector<int64_t> best_counts(const std::vector<double>& weights) {
  const double most = *std::max_element(weights.begin(), weights.end());
  double sum = 0.0;
  std::vector<double> shares;
  std::vector<double> ends;
  for (const double weight : weights) {  // over the largest first: a sum of large weights is no infinity then
    shares.push_back(weight / most);
    ends.push_back(sum += weight / most);
  }
  for (double& share : shares) share /= sum;
  for (double& end : ends) end /= sum;
  int64_t best = 0;
  double least = INFINITY;
  for (int64_t period = 1; period <= BlendOrder::kLongestPeriod && least > kRounding; ++period) {
    const double error = error_of(period, shares, ends, least);
    if (error < least) {
      least = error;
      best = period;
    }
  }
  if (best == 0) throw ConfigError("a weight of the blend must be at least a millionth of the sum of all");
  return counts_in(best, ends);
}

}  // namespace

BlendOrder::BlendOrder(const std::vector<double>& weights) : counts_(best_counts(weights)) {
  const int64_t period = std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
  std::vector<int64_t> had(counts_.size(), 0);
  // Of a sample: a corpus is read once it is one part behind its share, and before it is all parts but one behind.
  const auto parts = std::max<int64_t>(1, 2 * static_cast<int64_t>(counts_.size()) - 2);
  // Of two that are due at once the one with the smaller share is further behind.
  const auto is_later = [&](uint32_t one, uint32_t other) {
    const int64_t due = (had[one] * parts + parts - 1) * counts_[other];
    const int64_t other_due = (had[other] * parts + parts - 1) * counts_[one];
    return due == other_due ? std::tie(counts_[one], one) > std::tie(counts_[other], other) : due > other_due;
  };
  using Release = std::pair<int64_t, uint32_t>;  // the sample from which on a corpus may be read again
  std::priority_queue<Release, std::vector<Release>, std::greater<>> waiting;
  std::priority_queue<uint32_t, std::vector<uint32_t>, decltype(is_later)> ready(is_later);
  const auto wait = [&](uint32_t corpus) {
    const int64_t share_of_parts = counts_[corpus] * parts;
    waiting.emplace(((had[corpus] * parts + 1) * period + share_of_parts - 1) / share_of_parts - 1, corpus);
  };
  for (uint32_t corpus = 0; corpus < counts_.size(); ++corpus) wait(corpus);
  order_.reserve(static_cast<size_t>(period));
  for (int64_t sample = 0; sample < period; ++sample) {
    for (; !waiting.empty() && waiting.top().first <= sample; waiting.pop()) ready.push(waiting.top().second);
    const uint32_t next = ready.top();
    ready.pop();
    order_.push_back({next, static_cast<uint32_t>(had[next]++)});
    wait(next);
  }
}

BlendOrder::Place BlendOrder::place_of(int64_t sample) const {
  const Entry& entry = order_[static_cast<size_t>(sample % period())];
  return {entry.corpus, sample / period() * counts_[entry.corpus] + entry.sample};
}

int64_t BlendOrder::samples_before(int64_t sample, size_t corpus) const {
  const int64_t before = sample / period() * counts_[corpus];
  for (int64_t last = sample % period() - 1; last >= 0; --last) {
    const Entry& entry = order_[static_cast<size_t>(last)];
    if (entry.corpus == corpus) return before + entry.sample + 1;
  }
  return before;
}

}  // namespace pimoe
