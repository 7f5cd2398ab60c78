#include "parallel/direct_exchange.h"

#include "base/errors.h"
#include "base/text.h"

#include <ATen/ops/empty.h>

namespace pimoe {
namespace {

void check(const at::Tensor& rows, const at::Tensor& wanted, bool fits) {
  const bool ranks_fit =
      wanted.dim() == 3 && wanted.scalar_type() == at::kInt && wanted.is_contiguous() && wanted.device() == rows.device();
  if (!ranks_fit) throw ShapeError(concat("ranks that rows are for must be [P, M, K] int32 beside the rows; they are ", wanted.sizes()));
  if (rows.dim() != 2 || !rows.is_contiguous() || !fits) {
    throw ShapeError(concat("rows ", rows.sizes(), " do not fit the ranks that they are for, ", wanted.sizes()));
  }
  const int64_t bytes = rows.size(1) * static_cast<int64_t>(rows.element_size());
  if (bytes % kDirectRowBytes != 0) {
    throw ShapeError(concat("a row of ", bytes, " bytes must be a multiple of ", kDirectRowBytes, " to be written directly"));
  }
}

}  // namespace

at::Tensor DirectExchange::spread(const at::Tensor& rows, const at::Tensor& wanted) {
  check(rows, wanted, wanted.dim() == 3 && rows.size(0) <= wanted.size(1));
  const ProgressCollective mark("direct_spread", progress_);
  at::Tensor arrived = at::empty({wanted.size(0) * wanted.size(1), rows.size(1)}, rows.options());
  if (arrived.numel() > 0) do_spread(rows, wanted, arrived);
  return arrived;
}

at::Tensor DirectExchange::sum_back(const at::Tensor& rows, const at::Tensor& wanted, int64_t count) {
  check(rows, wanted, wanted.dim() == 3 && rows.size(0) == wanted.size(0) * wanted.size(1) && count <= wanted.size(1));
  const ProgressCollective mark("direct_sum", progress_);
  at::Tensor sums = at::empty({count, rows.size(1)}, rows.options());
  if (rows.numel() > 0) do_sum_back(rows, wanted, sums);
  return sums;
}

void DirectExchange::fill_next(const at::Tensor& rows) {
  const ProgressCollective mark("direct_fill", progress_);
  if (rows.numel() > 0) do_fill_next(rows);
}

}  // namespace pimoe
