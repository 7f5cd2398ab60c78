#include "ops/tile_kernels.h"

#include "ops/cpu_math.h"

namespace pimoe::cpu {
namespace {

/// Numbers that the compiler keeps in a register: of 16-bit ones eight, of 32-bit ones a whole cache line, since the rows that a turned block
/// is written to lie far apart.
template <class T>
struct Lane {
  static constexpr int64_t kBytes = sizeof(T) == 2 ? 16 : 64;
  typedef T Vector __attribute__((vector_size(kBytes)));
  static constexpr int64_t kCount = kBytes / sizeof(T);
};

/// Lanes of a and b by turns: from their lower halves, and from their upper ones.
PIMOE_CPU_INLINE void zip(Lane<uint16_t>::Vector a, Lane<uint16_t>::Vector b, Lane<uint16_t>::Vector& low, Lane<uint16_t>::Vector& high) {
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
PIMOE_CPU_INLINE void zip(Lane<uint32_t>::Vector a, Lane<uint32_t>::Vector b, Lane<uint32_t>::Vector& low, Lane<uint32_t>::Vector& high) {
  low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

/// A square block: zipping row i with row i + half, log2(rows) times, turns it.
template <class T>
PIMOE_CPU_INLINE void turn_block(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
  using Vector = typename Lane<T>::Vector;
  constexpr int64_t kCount = Lane<T>::kCount;
  Vector rows[kCount], zipped[kCount];
  for (int64_t row = 0; row < kCount; ++row) __builtin_memcpy(&rows[row], in + row * in_stride, sizeof(Vector));
  for (int64_t length = 1; length < kCount; length *= 2) {
    for (int64_t row = 0; row < kCount / 2; ++row) zip(rows[row], rows[row + kCount / 2], zipped[2 * row], zipped[2 * row + 1]);
    for (int64_t row = 0; row < kCount; ++row) rows[row] = zipped[row];
  }
  for (int64_t row = 0; row < kCount; ++row) __builtin_memcpy(out + row * out_stride, &rows[row], sizeof(Vector));
}

template <class T>
PIMOE_CPU_INLINE void turn_matrix(const T* in, int64_t in_stride, int64_t rows, int64_t columns, T* out, int64_t out_stride) {
  constexpr int64_t kCount = Lane<T>::kCount;
  for (int64_t row = 0; row < rows; row += kCount) {
    for (int64_t column = 0; column < columns; column += kCount) {
      if (row + kCount <= rows && column + kCount <= columns) {
        turn_block(in + row * in_stride + column, in_stride, out + column * out_stride + row, out_stride);
        continue;
      }
      for (int64_t i = row; i < rows && i < row + kCount; ++i) {
        for (int64_t j = column; j < columns && j < column + kCount; ++j) out[j * out_stride + i] = in[i * in_stride + j];
      }
    }
  }
}

}  // namespace

void turn(const uint16_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint16_t* out, int64_t out_stride) {
  turn_matrix(in, in_stride, rows, columns, out, out_stride);
}

PIMOE_CPU_CLONES void pack_pairs_turned(const uint16_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint32_t* out,
                                        int64_t out_stride) {
  // What lies side by side stays so: a pair moves as one number.
  if (in_stride % 2 == 0 && reinterpret_cast<uintptr_t>(in) % sizeof(uint32_t) == 0) {
    turn_matrix(reinterpret_cast<const uint32_t*>(in), in_stride / 2, rows, columns / 2, out, out_stride);
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t pair = 0; pair < columns / 2; ++pair) {
      __builtin_memcpy(out + pair * out_stride + row, in + row * in_stride + 2 * pair, sizeof(uint32_t));
    }
  }
}

PIMOE_CPU_CLONES void pack_pairs(const uint16_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint32_t* out, int64_t out_stride) {
  for (int64_t row = 0; row < rows; row += 2) {
    const uint16_t* __restrict first = in + row * in_stride;
    const uint16_t* __restrict second = first + in_stride;
    uint32_t* __restrict pairs = out + row / 2 * out_stride;
    if (row + 1 == rows) {
      for (int64_t i = 0; i < columns; ++i) pairs[i] = first[i];
      break;
    }
    PIMOE_CPU_NO_OVERLAP
    for (int64_t i = 0; i < columns; ++i) pairs[i] = first[i] | static_cast<uint32_t>(second[i]) << 16;
  }
}

}  // namespace pimoe::cpu
