#include "ops/cpu_math.h"

#include <limits>
#include <vector>

namespace pimoe::cpu {
namespace {

/// @returns the largest logit; NaN may be passed over here, it comes back with its own exponential.
template <class T>
PIMOE_CPU_INLINE Arithmetic<T> maximum(const T* logits, int64_t count) {
  using A = Arithmetic<T>;
  A lanes[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = -std::numeric_limits<A>::infinity();
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const A value = load(logits[i + lane]);
      lanes[lane] = value > lanes[lane] ? value : lanes[lane];
    }
  }
  for (; i < count; ++i) lanes[0] = load(logits[i]) > lanes[0] ? load(logits[i]) : lanes[0];
  A largest = lanes[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
  return largest;
}

/// @returns the sum of e^(logit - largest), each of which is kept.
template <class T, class A = Arithmetic<T>>
PIMOE_CPU_INLINE A exponentials(const T* __restrict logits, A largest, int64_t count, A* __restrict kept) {
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const A value = exponential(load(logits[i + lane]) - largest);
      kept[i + lane] = value;
      lanes[lane] += value;
    }
  }
  for (; i < count; ++i) {
    kept[i] = exponential(load(logits[i]) - largest);
    lanes[0] += kept[i];
  }
  return fold(lanes);
}

template <class T>
PIMOE_CPU_INLINE void loss_rows(const CrossEntropyArguments& a, int64_t begin, int64_t end, void* scratch) {
  using A = Arithmetic<T>;
  const int64_t vocabulary = a.vocabulary;
  for (int64_t row = begin; row < end; ++row) {
    const T* logits = static_cast<const T*>(a.logits) + row * vocabulary;
    T* grad = a.grad_logits == nullptr ? nullptr : static_cast<T*>(a.grad_logits) + row * vocabulary;
    A* loss = static_cast<A*>(a.losses) + row;
    const int64_t target = a.targets[row];
    if (target < 0) {
      *loss = 0;
      for (int64_t i = 0; grad != nullptr && i < vocabulary; ++i) grad[i] = T{};
      continue;
    }
    A* __restrict kept = static_cast<A*>(scratch);
    const A largest = maximum(logits, vocabulary);
    const A sum = exponentials(logits, largest, vocabulary, kept);
    *loss = std::log(sum) + (largest - load(logits[target]));
    if (grad == nullptr) continue;
    const A scale = A(1) / sum;
    kept[target] -= sum;
    for (int64_t i = 0; i < vocabulary; ++i) store(&grad[i], kept[i] * scale);
  }
}

}  // namespace

PIMOE_CPU_CLONES void loss_rows_any(const CrossEntropyArguments& a, int64_t begin, int64_t end, void* scratch) {
  by_dtype(
      a.dtype, [&]<class T>(T*) __attribute__((always_inline)) { loss_rows<T>(a, begin, end, scratch); });
}

void cross_entropy(const CrossEntropyArguments& a, int64_t begin, int64_t end) {
  // One row of exponentials in the widest arithmetic type.
  std::vector<double> scratch(static_cast<size_t>(a.vocabulary));
  loss_rows_any(a, begin, end, scratch.data());
}

}  // namespace pimoe::cpu
