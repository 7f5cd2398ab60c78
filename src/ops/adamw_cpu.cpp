#include "ops/cpu_math.h"

namespace pimoe::cpu {
namespace {

/// A chunk's sums, of master, exp_avg and exp_avg_sq.
struct Sums {
  uint64_t of[3];
};

PIMOE_CPU_INLINE uint64_t weighed_bits(float value, uint32_t index) { return uint64_t{to_bits(value)} * (2 * index + 1); }
PIMOE_CPU_INLINE uint64_t weighed_bits(double value, uint32_t index) {
  const auto bits = __builtin_bit_cast(uint64_t, value);
  return uint64_t{static_cast<uint32_t>(bits)} * (4 * index + 1) + uint64_t{static_cast<uint32_t>(bits >> 32)} * (4 * index + 3);
}

template <class A>
PIMOE_CPU_INLINE Sums sums_of(const AdamwArguments& a, int64_t begin, uint32_t count) {
  const A* master = static_cast<const A*>(a.master) + begin;
  const A* exp_avg = static_cast<const A*>(a.exp_avg) + begin;
  const A* exp_avg_sq = static_cast<const A*>(a.exp_avg_sq) + begin;
  uint64_t of_master = 0, of_first = 0, of_second = 0;
  for (uint32_t i = 0; i < count; ++i) {
    of_master += weighed_bits(master[i], i);
    of_first += weighed_bits(exp_avg[i], i);
    of_second += weighed_bits(exp_avg_sq[i], i);
  }
  return {{of_master, of_first, of_second}};
}

/// All in one loop, so that sums are made while the next numbers come from memory: apart from the update, in the cache, they took half as long again.
/// @returns the sums of what was written
template <class A, class W>
PIMOE_CPU_INLINE Sums update(const AdamwArguments& a, int64_t begin, uint32_t count, Sums& read) {
  const A* __restrict gradient = static_cast<const A*>(a.gradient) + begin;
  A* __restrict master = static_cast<A*>(a.master) + begin;
  A* __restrict exp_avg = static_cast<A*>(a.exp_avg) + begin;
  A* __restrict exp_avg_sq = static_cast<A*>(a.exp_avg_sq) + begin;
  W* __restrict weights = std::is_same_v<W, A> ? nullptr : static_cast<W*>(a.weights) + begin;
  const A factor = static_cast<A>(a.gradient_factor);
  const A kept = static_cast<A>(a.kept);
  const A first_rate = static_cast<A>(a.first_rate);
  const A second_kept = static_cast<A>(a.second_kept);
  const A second_rate = static_cast<A>(a.second_rate);
  const A root_scale = static_cast<A>(a.root_scale);
  const A epsilon = static_cast<A>(a.epsilon);
  const A step_size = static_cast<A>(a.step_size);
  uint64_t master_read = 0, first_read = 0, second_read = 0;
  uint64_t master_written = 0, first_written = 0, second_written = 0;
  PIMOE_CPU_NO_OVERLAP
  for (uint32_t i = 0; i < count; ++i) {
    master_read += weighed_bits(master[i], i);
    first_read += weighed_bits(exp_avg[i], i);
    second_read += weighed_bits(exp_avg_sq[i], i);
    const A g = gradient[i] * factor;
    const A m = exp_avg[i] + first_rate * (g - exp_avg[i]);
    const A v = second_kept * exp_avg_sq[i] + second_rate * g * g;
    const A w = kept * master[i] - step_size * m / (std::sqrt(v) * root_scale + epsilon);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    master[i] = w;
    if constexpr (!std::is_same_v<W, A>) store(&weights[i], w);
    master_written += weighed_bits(w, i);
    first_written += weighed_bits(m, i);
    second_written += weighed_bits(v, i);
  }
  read = {{master_read, first_read, second_read}};
  return {{master_written, first_written, second_written}};
}

template <class A, class W>
PIMOE_CPU_INLINE void pass(const AdamwArguments& a, int64_t first_chunk, int64_t last_chunk) {
  for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
    const int64_t begin = a.begins[chunk];
    const auto count = static_cast<uint32_t>(a.begins[chunk + 1] - begin);
    Sums read{};
    Sums left{};
    if (a.gradient == nullptr) {
      left = read = sums_of<A>(a, begin, count);
    } else {
      left = update<A, W>(a, begin, count, read);
    }
    for (int kind = 0; kind < 3; ++kind) {
      uint64_t& known = a.sums[3 * chunk + kind];
      if (known != read.of[kind]) {
        a.changed[chunk] = static_cast<uint8_t>(a.changed[chunk] | 1 << kind);
        __atomic_fetch_add(a.found, 1, __ATOMIC_RELAXED);
      }
      known = left.of[kind];
    }
  }
}

}  // namespace

PIMOE_CPU_CLONES void adamw(const AdamwArguments& a, int64_t begin, int64_t end) {
  if (a.dtype == Dtype::kFloat64) return pass<double, double>(a, begin, end);
  switch (a.weight_dtype) {
    case Dtype::kBFloat16: return pass<float, BFloat16>(a, begin, end);
    case Dtype::kFloat16: return pass<float, Float16>(a, begin, end);
    default: return pass<float, float>(a, begin, end);
  }
}

}  // namespace pimoe::cpu
