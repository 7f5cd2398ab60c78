#pragma once

#include "moe/expert_placement.h"
#include "moe/matrix.h"
#include "moe/weights.h"
#include "parallel/precision.h"

#include <optional>

namespace pimoe {

/// The experts of one shape that this rank holds: a row passes `layers` matrices with the activation between them.
///
///     gated (swiglu, geglu)  h = act(gate t) * (up t); then for each middle matrix h = act(M h); result down h
///     otherwise              h = act(up t); then likewise
///
/// with act = silu for swiglu, gelu (exact) for geglu, max(x, 0)^2 for relu2.
class ExpertBank {
 public:
  /// Declares name.gate_up.weight [n, 2F, D] (gate rows first) or name.up.weight [n, F, D], name.middle.I.weight [n, F, F] for I below
  /// layers - 2, and name.down.weight [n, D, F], n experts in the group, of which this rank holds the bank's share; quantized, their scales too (Matrix).
  ExpertBank(ParameterList& parameters, const std::string& name, const ExpertGroupConfig& group, const ExpertPlacement::Bank& bank,
             int64_t width, at::ScalarType dtype, InitialDeviation deviation, const QuantizationConfig& quantization = {});
  /// Says that one backward pass may run through these experts several times.
  void expect_gradients_in_parts();

  /// @param rows         [R, D] contiguous, of the experts' dtype, R may be 0
  /// @param row_weights  [R, 1] at least float32: each row's result is multiplied by it; undefined: it is not
  /// @param ends         [L] int32 as in DispatchPlan, L this bank's local experts
  /// @returns [R, D]; differentiable; see grouped_swiglu_mlp for cost
  at::Tensor forward(const at::Tensor& rows, const at::Tensor& row_weights, const at::Tensor& ends) const;

  /// Whether from_tokens has kernels for these experts and tokens.
  bool fuses_routing(const at::Tensor& tokens) const;
  /// From tokens to tokens: rows are gathered and results combined by the products themselves. REQUIRES fuses_routing.
  /// @param weights  [T, K] gates  @param slots  [R] int32, as SlotOrder has them, positions too  @returns [T, D]; see routed_swiglu_mlp
  at::Tensor from_tokens(const at::Tensor& tokens, const at::Tensor& weights, const at::Tensor& slots, const at::Tensor& positions,
                         const at::Tensor& ends) const;

 private:
  /// Whether these are fused networks' experts: swiglu of two matrices, as numbers that nobody watches.
  bool is_plain_swiglu() const { return activation_ == Activation::kSwiglu && middle_.empty() && up_.is_plain() && down_.is_plain(); }
  at::Tensor activated(const at::Tensor& rows, const at::Tensor& ends) const;

  Activation activation_;
  Matrix up_;  ///< gate and up where gated
  std::vector<Matrix> middle_;
  Matrix down_;
};

/// @param gates_early  rows are weighed before the last matrix (MoeMemory::kBalanced and kLean)
/// @param gates_learn  the row weights need a gradient
/// @returns bytes that ExpertBank::forward keeps for backward of one row, without the row itself, which its maker counts
int64_t kept_bytes_of_expert_row(const ExpertGroupConfig& group, ElementBytes bytes, bool gates_early, bool gates_learn);

}  // namespace pimoe
