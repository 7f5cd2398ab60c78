#include "data/pair_merges.h"

#include <algorithm>
#include <array>
#include <queue>

namespace pimoe {
namespace {

constexpr size_t kMostOfShort = 32;

uint64_t pair_of(uint32_t high, uint32_t low) { return uint64_t{high} << 32 | low; }

}  // namespace

void PairMerges::add(int32_t left, int32_t right, uint32_t rank, int32_t merged) {
  merges_.put(pair_of(static_cast<uint32_t>(left), static_cast<uint32_t>(right)), pair_of(rank, static_cast<uint32_t>(merged)));
}

PairMerges::Merge PairMerges::find(int32_t left, int32_t right) const {
  const uint64_t* found = merges_.find(pair_of(static_cast<uint32_t>(left), static_cast<uint32_t>(right)));
  if (found == nullptr) return {kNoRank, 0};
  return {static_cast<uint32_t>(*found >> 32), static_cast<int32_t>(*found & UINT32_MAX)};
}

void PairMerges::apply(std::vector<int32_t>& symbols) const {
  symbols.size() <= kMostOfShort ? apply_to_short(symbols) : apply_to_long(symbols);
}

void PairMerges::apply_to_short(std::vector<int32_t>& symbols) const {
  std::array<Merge, kMostOfShort> with_next{};
  size_t pairs = symbols.empty() ? 0 : symbols.size() - 1;
  for (size_t i = 0; i < pairs; ++i) with_next[i] = find(symbols[i], symbols[i + 1]);
  while (pairs > 0) {
    const auto begin = with_next.begin();
    const auto best =
        std::min_element(begin, begin + static_cast<std::ptrdiff_t>(pairs), [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->rank == kNoRank) break;
    const auto at = static_cast<size_t>(best - begin);
    symbols[at] = best->merged;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    std::copy(begin + static_cast<std::ptrdiff_t>(std::min(at + 2, pairs)), begin + static_cast<std::ptrdiff_t>(pairs),
              begin + static_cast<std::ptrdiff_t>(std::min(at + 1, pairs)));
    --pairs;
    if (at > 0) with_next[at - 1] = find(symbols[at - 1], symbols[at]);
    if (at < pairs) with_next[at] = find(symbols[at], symbols[at + 1]);
  }
}

void PairMerges::apply_to_long(std::vector<int32_t>& symbols) const {
  constexpr uint32_t kEnd = UINT32_MAX;
  struct Neighbours {
    uint32_t previous;
    uint32_t next;
  };
  const auto count = static_cast<uint32_t>(symbols.size());
  std::vector<Neighbours> links(count);
  for (uint32_t i = 0; i < count; ++i) links[i] = {i == 0 ? kEnd : i - 1, i + 1 == count ? kEnd : i + 1};

  struct Candidate {
    uint32_t rank;
    uint32_t at;
    int32_t left;  ///< what stood there: a candidate of which either has changed is none any more
    int32_t right;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](uint32_t at) {
    if (at == kEnd || links[at].next == kEnd) return;
    const int32_t left = symbols[at];
    const int32_t right = symbols[links[at].next];
    const Merge merge = find(left, right);
    if (merge.rank != kNoRank) queue.push({merge.rank, at, left, right});
  };
  for (uint32_t i = 0; i < count; ++i) consider(i);

  constexpr int32_t kGone = -1;
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const uint32_t next = links[best.at].next;
    if (symbols[best.at] != best.left || next == kEnd || symbols[next] != best.right) continue;
    symbols[best.at] = find(best.left, best.right).merged;
    symbols[next] = kGone;
    links[best.at].next = links[next].next;
    if (links[next].next != kEnd) links[links[next].next].previous = best.at;
    consider(links[best.at].previous);
    consider(best.at);
  }
  std::erase(symbols, kGone);
}

}  // namespace pimoe
