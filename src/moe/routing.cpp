#include "moe/routing.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

namespace pimoe {

at::Tensor sum_of_counted(const at::Tensor& of_tokens, const at::Tensor& counted) {
  if (!counted.defined()) return of_tokens.sum(0);
  if (of_tokens.dim() == 2) return at::mv(of_tokens.t(), counted.to(of_tokens.dtype()));
  return at::where(counted, of_tokens, at::zeros_like(of_tokens)).sum();
}

}  // namespace pimoe
