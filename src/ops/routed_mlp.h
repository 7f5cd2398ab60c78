#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace pimoe {

/// A MoE layer's experts on one rank, from tokens to tokens: out[t] = sum over k of weights[t, k] y, y = swiglu(tokens[t] gate_up_g^T) down_g^T
/// of the group g of slot (t, k). The same as gather_rows, grouped_swiglu_mlp and combine_rows one after the other, which is what runs where
/// fuses_routed_mlp says no. Differentiable in tokens, weights, gate_up and down.
///
/// Fused, the products gather the rows that they read, and the gates' gradient comes from the hidden rows: neither the rows nor the results are
/// kept.
/// @param tokens     [T, D] contiguous
/// @param weights    [T, K] in the arithmetic type of tokens
/// @param gate_up    [G, 2F, D] (gate rows first), down [G, D, F], of the tokens' dtype
/// @param slots      [R] int32: rows of a group side by side; past the last end anything
/// @param positions  [T*K] int32: row of each slot, or -1 where it goes nowhere
/// @param ends       [G] int32: group g is rows [ends[g-1], ends[g])
/// @returns [T, D]; on a GPU the weights' gradients go to their sinks where they have them (gradient_sink.h)  @throws ShapeError
/// @cost saves tokens, the pre-activation [R, 2F], and 8 bytes a slot; six grouped products forward and backward, no host synchronisation
/// @source gradients of gates from hidden rows, and what is kept: SonicMoE (Guo et al., 2025)
at::Tensor routed_swiglu_mlp(const at::Tensor& tokens, const at::Tensor& weights, const at::Tensor& gate_up, const at::Tensor& down,
                             const at::Tensor& slots, const at::Tensor& positions, const at::Tensor& ends);

/// @returns whether the device has routed_swiglu_mlp's kernels: a GPU of compute capability 9, a CPU with instructions for bfloat16
bool has_routed_mlp_kernels(c10::Device device);

/// Whether they take these: bfloat16, D and F multiples of 8 on a GPU and of 2 on the CPU, at least one token.
bool fuses_routed_mlp(const at::Tensor& tokens, const at::Tensor& gate_up, const at::Tensor& down);

/// Bytes of a fused call with R rows in G groups.
struct RoutedMlpBytes {
  int64_t kept = 0;      ///< for backward, without the tokens
  int64_t backward = 0;  ///< most at one time in backward, beside what is kept
};
RoutedMlpBytes routed_mlp_bytes(int64_t tokens, int64_t rows, int64_t groups, int64_t width, int64_t hidden_width, bool on_gpu);

}  // namespace pimoe
