#pragma once

/// The kernels behind bfloat16 tiles on the CPU (tile_product.h), by raw pointer: how they are moved, and what is computed from a tile of float32
/// sums before it is rounded. A stride is from row to row, in elements. Called where has_tile_product() says yes, and so with AVX512_BF16.
///
/// No libtorch here, as in kernels.h.

#include <cstdint>

// clang, which builds the fuzz targets, has no pragma for a file's instructions.
#if defined(__x86_64__) && !defined(__clang__)
#define PIMOE_HAS_TILE_MATH 1
#else
#define PIMOE_HAS_TILE_MATH 0
#endif

namespace pimoe::cpu {

/// How ops/tile_product.h moves 16-bit numbers.
/// out [columns, rows] = in [rows, columns] turned.
void turn(const uint16_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint16_t* out, int64_t out_stride);
/// out [ceil(rows / 2), columns]: in [rows, columns], two rows side by side; a missing last row is zeros.
void pack_pairs(const uint16_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint32_t* out, int64_t out_stride);
/// out [columns / 2, rows]: in [rows, columns] turned, and then two rows side by side; columns is even.
void pack_pairs_turned(const uint16_t* in, int64_t in_stride, int64_t rows, int64_t columns, uint32_t* out, int64_t out_stride);
/// out [rows, columns] bfloat16 = in float32, rounded; row r over divisors[r] before, where there are divisors.
void narrow_rows(const float* in, int64_t in_stride, int64_t rows, int64_t columns, uint16_t* out, int64_t out_stride,
                 const float* divisors = nullptr);

/// What ops/causal_attention.h does to a tile of scores.
struct CausalSoftmaxArguments {
  int64_t stride, rows;
  int64_t first;              ///< row i sees keys up to first + i
  const int32_t* first_keys;  ///< [rows] the first that it sees; null: 0
  float scale;
  const float* scores;  ///< [rows, stride]
  /// [rows, stride] = e^(scale (score - the row's largest)) of the keys that a row sees, zeros beside them, to the end of its block of 64 keys
  uint16_t* shares;
  float* sums;  ///< [rows] of them
  float* logsumexp;
};
void causal_softmax(const CausalSoftmaxArguments& arguments);
struct SoftmaxBackwardArguments {
  int64_t keys, queries;
  bool diagonal;              ///< query i does not see key j > i
  const int32_t* first_keys;  ///< [queries] nor key j < first_keys[i]; null: it sees them all
  float scale;
  const float* scores;       ///< [keys, queries]; what follows too
  const float* grad_shares;  ///< gradient of the softmax's result
  const float* logsumexp;    ///< [queries]
  const float* dots;         ///< [queries] sum over keys of grad_shares times shares
  uint16_t* shares;          ///< bfloat16, written: the softmax's result
  uint16_t* grad_scores;     ///< bfloat16, written
};
void causal_softmax_backward(const SoftmaxBackwardArguments& arguments);
/// dots [rows] = sum over columns of left times right, both of this stride.
void row_dots(const uint16_t* left, const uint16_t* right, int64_t stride, int64_t rows, int64_t columns, float* dots);

/// What ops/fused_mlp.h does to a tile of pre-activations.
struct SwigluTileArguments {
  int64_t rows = 0, columns = 0;
  const float* weights = nullptr;  ///< [rows] of the hidden rows; null: one
  uint16_t* gate = nullptr;        ///< forward writes, backward reads; likewise up
  uint16_t* up = nullptr;
  int64_t gate_up_stride = 0;
  uint16_t* hidden = nullptr;  ///< written, weighed
  int64_t hidden_stride = 0;
  const float* gate_sums = nullptr;  ///< forward: what gate and up are rounded from
  const float* up_sums = nullptr;
  const float* grad_hidden = nullptr;  ///< backward: of the weighed hidden rows
  int64_t sums_stride = 0;
  uint16_t* grad_gate = nullptr;  ///< backward; likewise grad_up
  uint16_t* grad_up = nullptr;
  int64_t grad_stride = 0;
  float* dots = nullptr;  ///< [rows] backward: += grad_hidden times the hidden row before its weight; null: not wanted
};
/// The hidden rows are those of the rounded gate and up, which are what backward has.
void swiglu_tile(const SwigluTileArguments& arguments);
void swiglu_tile_backward(const SwigluTileArguments& arguments);

/// What ops/cross_entropy.h does to a tile of logits [rows, vocabulary], which are spent: losses [rows], and grads [rows, vocabulary], softmax
/// minus one at the target; null: none. A target of -1 does not count.
void cross_entropy_tile(float* logits, int64_t rows, int64_t vocabulary, const int64_t* targets, float* losses, uint16_t* grads);

}  // namespace pimoe::cpu
