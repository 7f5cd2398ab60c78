#include "ops/sum_of_squares.h"

#include "ops/launch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

namespace pimoe {
namespace {

/// One float32 norm of millions of elements is off by several 1e-4: short rows, and their squares added up in float64.
at::Tensor squares_on_host(const at::Tensor& flat) {
  constexpr int64_t kRow = 64;
  const int64_t whole = flat.numel() / kRow * kRow;
  const auto squares = [](const at::Tensor& rows) {
    return at::linalg_vector_norm(rows, 2, at::IntArrayRef{1}).to(at::kDouble).square().sum();
  };
  return squares(flat.narrow(0, 0, whole).view({-1, kRow})) + squares(flat.narrow(0, whole, flat.numel() - whole).view({1, -1}));
}

}  // namespace

at::Tensor sum_of_squares(const std::vector<at::Tensor>& tensors) {
  check_shape(!tensors.empty(), "sum_of_squares needs a tensor");
  for (const at::Tensor& tensor : tensors) {
    check_operand("a tensor of sum_of_squares", tensor, tensor.scalar_type(), tensors[0]);
    check_shape(tensor.scalar_type() == arithmetic_type(tensor), "sum_of_squares: ", describe(tensor), ", needs float32 or float64");
    check_shape(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0,
                "sum_of_squares: a tensor is not at a multiple of 16 bytes");
  }
  const at::TensorOptions options = tensors[0].options().dtype(at::kDouble).requires_grad(false);
  if (tensors[0].is_cpu()) {
    at::Tensor total = at::zeros({1}, options);
    for (const at::Tensor& tensor : tensors) total += squares_on_host(tensor.view({-1}));
    return total;
  }
  at::Tensor parts = at::zeros({static_cast<int64_t>(tensors.size()), kSquaresBlocks}, options);
  for (size_t index = 0; index < tensors.size(); ++index) {
    const at::Tensor& tensor = tensors[index];
    const SquaresArguments arguments{dtype_of(tensor), tensor.numel(), tensor.const_data_ptr(),
                                     parts.mutable_data_ptr<double>() + static_cast<int64_t>(index) * kSquaresBlocks};
    launch(
        tensor, tensor.numel(), 1, [](int64_t, int64_t) {}, [&] { cuda::sum_of_squares(arguments); });
  }
  return parts.sum().view({1});
}

}  // namespace pimoe
