#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace pimoe {

/// Factors around one for multiplicative noise: 1 + amplitude * (2 u - 1), u the uniform number of (key, first_index + i), the same bits on
/// CPU and GPU. No state: what is drawn depends on the index alone, so that layouts, micro-steps and recomputation draw alike.
/// @param shape    of the result, elements in row-major order
/// @param options  float32 or float64 (others are a ShapeError), any device
at::Tensor keyed_noise(uint64_t key, uint64_t first_index, double amplitude, at::IntArrayRef shape, const at::TensorOptions& options);

}  // namespace pimoe
