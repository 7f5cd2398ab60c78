#pragma once

/// grouped_swiglu_mlp and routed_swiglu_mlp by kernels of our own in bfloat16: on Hopper (grouped_product_kernel.cuh), and by tiles on CPUs with
/// instructions for it (fused_mlp_tiles.h). Seen by ops/*.cpp alone.

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace pimoe {

/// A gated network for each group of rows, which are gathered by the products themselves where there are `row_tokens`.
struct FusedMlp {
  at::Tensor input = {};       ///< [R, D]; [T, D] where gathered
  at::Tensor gate_up = {};     ///< [G, 2F, D]
  at::Tensor down = {};        ///< [G, D, F]
  at::Tensor ends = {};        ///< [G] int32
  at::Tensor row_tokens = {};  ///< [R] int32; undefined: row r is input[r]
  at::Tensor weights = {};     ///< float32, of row r weights[slots[r]], weights[r] where slots are undefined; undefined: one
  at::Tensor slots = {};       ///< [R] int32
  at::Tensor positions = {};   ///< [slots] int32: row of each slot, or -1; undefined: a row is its own slot. Backward where gathered
  bool weigh_hidden = false;   ///< the result is weighed; else whoever combines it does, and only gradients are weighed here
  int64_t rows = 0;            ///< R
};

/// @returns whether the device has the kernels
bool has_mlp_kernels(c10::Device device);
/// Whether they take these operands. No rows and no groups are for others.
bool fuses_mlp(const at::Tensor& input, const at::Tensor& gate_up, const at::Tensor& down);

struct FusedMlpResult {
  at::Tensor rows;          ///< [R, D]; past the last end nothing is written
  at::Tensor gate_up_rows;  ///< [R, 2F] numbers that backward needs, in an order of the kernels' own
};
FusedMlpResult fused_mlp(const FusedMlp& mlp);

/// What backward of the rows leaves for that of the weights.
struct FusedMlpRowGradients {
  at::Tensor rows = {};               ///< [R, D]; undefined where not wanted
  at::Tensor weights = {};            ///< [slots] float32; undefined where not wanted
  at::Tensor grad_gate_up_rows = {};  ///< [R, 2F] in an order of the kernels' own (on CPUs: PairedRows)
  at::Tensor hidden = {};             ///< [R, F] weighed, likewise
  at::Tensor turns = {};              ///< on GPUs: which multiprocessors compute what (kernels.h)
};
struct FusedMlpWanted {
  bool rows = true;
  bool weights = false;
};
/// @param grad_output  as the input
FusedMlpRowGradients fused_mlp_backward(const FusedMlp& mlp, const at::Tensor& gate_up_rows, const at::Tensor& grad_output,
                                        FusedMlpWanted wanted);
/// @returns [G, 2F, D]; undefined where the gradient went to the weights' sink (gradient_sink.h), as GPUs' do
at::Tensor fused_mlp_gate_up_gradient(const FusedMlp& mlp, const FusedMlpRowGradients& of_rows);
/// @returns [G, D, F], or undefined likewise
at::Tensor fused_mlp_down_gradient(const FusedMlp& mlp, const FusedMlpRowGradients& of_rows, const at::Tensor& grad_output);

}  // namespace pimoe
