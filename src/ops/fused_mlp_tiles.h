#pragma once

/// fused_mlp.h on CPUs with instructions for bfloat16 (tile_product.h): a tile of rows goes through both products while it is in the caches.
/// Seen by fused_mlp.cpp alone.

#include "ops/fused_mlp.h"

namespace pimoe {

/// gate_up_rows come in slices of tiles, which backward takes.
FusedMlpResult fused_mlp_by_tiles(const FusedMlp& mlp);
/// grad_gate_up_rows and hidden come as PairedRows, which the weights' gradients take.
FusedMlpRowGradients fused_mlp_backward_by_tiles(const FusedMlp& mlp, const at::Tensor& gate_up_rows, const at::Tensor& grad_output,
                                                 FusedMlpWanted wanted);
at::Tensor fused_mlp_gate_up_gradient_by_tiles(const FusedMlp& mlp, const FusedMlpRowGradients& of_rows);
at::Tensor fused_mlp_down_gradient_by_tiles(const FusedMlp& mlp, const FusedMlpRowGradients& of_rows, const at::Tensor& grad_output);

}  // namespace pimoe
