#include "ops/cpu_math.h"

namespace pimoe::cpu {
namespace {

/// Whether a score stands strictly before another of higher index: equal scores keep their order, NaN comes after every number.
template <class A>
bool goes_before(A later, A earlier) {
  return later > earlier || (std::isnan(earlier) && !std::isnan(later));
}

/// Each row's K best so far are kept in order; nearly every score fails at the first comparison, with the worst of them.
template <class A>
void choose_rows(const TopKArguments& a, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    const A* scores = static_cast<const A*>(a.scores) + token * a.experts;
    int32_t* chosen = a.chosen + token * a.choices;
    int64_t kept = 0;
    for (int64_t expert = 0; expert < a.experts; ++expert) {
      if (kept == a.choices && !goes_before(scores[expert], scores[chosen[kept - 1]])) continue;
      int64_t place = kept < a.choices ? kept++ : kept - 1;
      for (; place > 0 && goes_before(scores[expert], scores[chosen[place - 1]]); --place) chosen[place] = chosen[place - 1];
      chosen[place] = static_cast<int32_t>(expert);
    }
  }
}

}  // namespace

void top_k(const TopKArguments& a, int64_t begin, int64_t end) {
  a.dtype == Dtype::kFloat64 ? choose_rows<double>(a, begin, end) : choose_rows<float>(a, begin, end);
}

}  // namespace pimoe::cpu
