#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace pimoe {

/// out[r] = tokens[slots[r] / K]: the row that travels for each slot, in the order of `slots`. Differentiable in tokens: a token's gradient
/// is the sum over its K slots, in slot order (deterministic, no atomics).
/// @param tokens     [T, D] contiguous
/// @param slots      [R] int32
/// @param positions  [T*K] int32: place of each slot in `slots`, or -1 where a slot was dropped; rows of no position are allowed
/// @returns [R, D]  @throws ShapeError  @cost one pass each way; saves positions. No host synchronisation
at::Tensor gather_rows(const at::Tensor& tokens, const at::Tensor& slots, const at::Tensor& positions, int64_t choices);

/// out[t] = sum over k of weights[t, k] * rows[positions[t*K + k]]; a position of -1 contributes nothing. Differentiable in rows and weights.
/// @param rows       [R, D] contiguous
/// @param weights    [T, K] float32 (float64 when rows are); sums in that precision, k ascending
/// @param positions  as for gather_rows, of R places
/// @param unused_rows  some rows have no slot, and need a gradient of zero; else theirs is unspecified
/// @returns [T, D] in the dtype of rows  @throws ShapeError  @cost one pass each way; saves weights and positions, and rows where the weights learn. No host synchronisation
at::Tensor combine_rows(const at::Tensor& rows, const at::Tensor& weights, const at::Tensor& positions, bool unused_rows = false);

/// The gradient of gather_rows: out[t] = sum over the K slots of token t of rows[position of the slot]. Not differentiable.
/// @param rows [R, D] contiguous  @returns [T, D]  @throws ShapeError
at::Tensor add_rows_of_tokens(const at::Tensor& rows, const at::Tensor& positions, int64_t choices);

/// What gather_rows gives, by the positions: out[positions[s]] = tokens[s / K], each token read once. Not differentiable.
/// @returns [rows, D]; rows of no position are not written  @throws ShapeError
at::Tensor rows_of_tokens(const at::Tensor& tokens, const at::Tensor& positions, int64_t choices, int64_t rows);

/// out[i] = rows[index[i]] for a permutation `index` of [0, R); differentiable (the gradient goes back by the inverse).
/// @param index    [R] int32
/// @param inverse  [R] int32: inverse[index[i]] = i  @throws ShapeError
at::Tensor permute_rows(const at::Tensor& rows, const at::Tensor& index, const at::Tensor& inverse);

}  // namespace pimoe
