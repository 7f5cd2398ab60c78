#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <string>

namespace pimoe {

/// Products of groups of rows with int8 matrices, one for each group, for inference: not differentiable.
///
///     none     rows W^T with the rows as they are (weight-only): weights are widened tile by tile on their way into the product, and lie as int8 in memory
///     dynamic  rows are made int8 too, each with a scale of its own; int8 times int8 is summed in int32, exactly, and scaled at the end
///     static   likewise, with one scale for each matrix, known beforehand (from calibration)
///
/// On CPUs with AVX512_VNNI or AMX_INT8 by oneDNN's batched products (at::native::cpublas::brgemm, which takes the best instructions that are there) of
/// packed panels of 64 channels, and by dot products along memory where a group has few rows, as when tokens are generated one by one. On GPUs by a kernel
/// for tensor cores, all groups at once, which waits for nothing on the host; where A is no multiple of 16, or rows as they are, or the result, are of other types
/// than it has, by libtorch's products, one group after the other. Elsewhere only where a plain loop was asked for.
enum class Int8Activations { kNone, kDynamic, kStatic };

/// A float number is its integer times the scale: of each row of a matrix (a channel of the result), symmetric, the integers in [-127, 127].
struct Int8Matrices {
  at::Tensor numbers;            ///< [G, B, A] int8, contiguous
  at::Tensor scales;             ///< [G, B] float32
  at::Tensor input_scales = {};  ///< [G] float32 of the rows; kStatic alone
  Int8Activations activations = Int8Activations::kNone;
  bool allow_slow = false;  ///< a plain loop where there is no kernel
};

/// Terms of a sum at most: more could overflow int32.
constexpr int64_t kMostInt8Terms = 65536;

/// rows[r] W_g^T
/// @param rows  [R, A], any floating dtype  @param ends  [G] int32, as in grouped_product.h: rows past the last give zeros
/// @param dtype  of the result
/// @returns [R, B]  @throws ShapeError; ConfigError as int8_kernel
at::Tensor int8_linear(const at::Tensor& rows, const Int8Matrices& matrices, const at::Tensor& ends, at::ScalarType dtype);

/// @returns the kernel that int8_linear runs: "avx512_vnni (oneDNN, u8 x s8 -> s32)"; "reference" where only a plain loop is there, and allowed
/// @throws ConfigError naming what the device is missing
std::string int8_kernel(Int8Activations activations, at::ScalarType rows, c10::Device device, bool allow_slow);

/// Numbers with a scale for each row of the last dimension.
struct Int8Numbers {
  at::Tensor numbers;  ///< int8, [..., A] as they were
  at::Tensor scales;   ///< float32, [...]
};
/// The scale is the row's largest size / 127: nothing is cut off, and each number is within half a scale of what it was. A row of zeros has scale zero; one
/// with a number that is not finite has scale NaN, so that it is seen in what comes of it.
/// @param values  [..., A] floating, contiguous
Int8Numbers int8_numbers(const at::Tensor& values);

/// @returns numbers times scales, float32
at::Tensor from_int8(const Int8Numbers& numbers);

}  // namespace pimoe
