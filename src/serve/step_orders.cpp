#include "serve/step_orders.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

namespace pimoe {
namespace {

/// Numbers of the first message; most orders fit.
constexpr int64_t kFirst = 512;

/// count, kind, experts, then of each rank: parts; of each part first, count, scored, pages...; tokens...
std::vector<int64_t> written(const StepOrder& order) {
  std::vector<int64_t> numbers = {0, static_cast<int64_t>(order.kind), order.experts ? 1 : 0, static_cast<int64_t>(order.steps.size())};
  const auto put = [&](const std::vector<int64_t>& list) {
    numbers.push_back(static_cast<int64_t>(list.size()));
    numbers.insert(numbers.end(), list.begin(), list.end());
  };
  for (const RankStep& step : order.steps) {
    numbers.push_back(static_cast<int64_t>(step.parts.size()));
    for (const CachedPart& part : step.parts) {
      numbers.insert(numbers.end(), {part.first, part.count, part.scored});
      put(part.pages);
    }
    put(step.tokens);
  }
  numbers[0] = static_cast<int64_t>(numbers.size());
  return numbers;
}

StepOrder read(const int64_t* numbers) {
  StepOrder order;
  order.kind = static_cast<StepOrder::Kind>(numbers[1]);
  order.experts = numbers[2] != 0;
  order.steps.resize(static_cast<size_t>(numbers[3]));
  const int64_t* next = numbers + 4;
  const auto take = [&] {
    const int64_t count = *next++;
    std::vector<int64_t> list(next, next + count);
    next += count;
    return list;
  };
  for (RankStep& step : order.steps) {
    step.parts.resize(static_cast<size_t>(*next++));
    for (CachedPart& part : step.parts) {
      part.first = *next++;
      part.count = *next++;
      part.scored = *next++;
      part.pages = take();
    }
    step.tokens = take();
  }
  return order;
}

}  // namespace

StepOrder ordered_by_rank_0(StepOrder order, const HostCommunicator& ranks) {
  if (ranks.size() == 1) return order;
  const bool root = ranks.rank() == 0;
  const std::vector<int64_t> mine = root ? written(order) : std::vector<int64_t>();
  at::Tensor first = at::zeros({kFirst}, at::kLong);
  if (root) std::copy_n(mine.begin(), std::min<int64_t>(kFirst, mine[0]), first.mutable_data_ptr<int64_t>());
  ranks.broadcast(first, 0);
  const int64_t count = first.const_data_ptr<int64_t>()[0];
  std::vector<int64_t> all(first.const_data_ptr<int64_t>(), first.const_data_ptr<int64_t>() + kFirst);
  if (count > kFirst) {
    at::Tensor rest = at::zeros({count - kFirst}, at::kLong);
    if (root) std::copy(mine.begin() + kFirst, mine.end(), rest.mutable_data_ptr<int64_t>());
    ranks.broadcast(rest, 0);
    all.insert(all.end(), rest.const_data_ptr<int64_t>(), rest.const_data_ptr<int64_t>() + rest.numel());
  }
  if (!root) order = read(all.data());
  if (order.kind == StepOrder::Kind::kReload) order.checkpoint = ranks.broadcast_text(order.checkpoint, 0);
  return order;
}

}  // namespace pimoe
