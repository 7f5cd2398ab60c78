#include "parallel/communicator_checks.h"

#include "base/box.h"
#include "base/errors.h"
#include "base/text.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

namespace pimoe {
namespace {

std::string where(const Communicator& group, const char* collective) {
  return concat(collective, " in ", group.name(), ", rank ", group.rank(), ": ");
}

}  // namespace

void check_contiguous(const Communicator& group, const char* collective, const at::Tensor& tensor) {
  if (!tensor.defined()) throw ShapeError(where(group, collective) + "the tensor is undefined");
  if (!tensor.is_contiguous()) {
    throw ShapeError(concat(where(group, collective), "a tensor of shape ", shape_text(tensor.sizes().vec()), " and strides ",
                            shape_text(tensor.strides().vec()), " must be contiguous"));
  }
}

void check_reducible(const Communicator& group, const char* collective, const at::Tensor& tensor) {
  check_contiguous(group, collective, tensor);
  const at::ScalarType dtype = tensor.scalar_type();
  if (dtype != at::kFloat && dtype != at::kDouble && dtype != at::kLong && dtype != at::kInt) {
    throw ShapeError(
        concat(where(group, collective), "dtype ", c10::toString(dtype), " is not reduced; it must be float32, float64, int64 or int32"));
  }
}

void check_parts(const Communicator& group, const char* collective, const at::Tensor& whole, const at::Tensor& part) {
  check_contiguous(group, collective, whole);
  check_contiguous(group, collective, part);
  if (whole.scalar_type() != part.scalar_type() || whole.device() != part.device()) {
    throw ShapeError(concat(where(group, collective), "the whole is ", c10::toString(whole.scalar_type()), " on ", whole.device().str(),
                            ", the part ", c10::toString(part.scalar_type()), " on ", part.device().str(), "; they must be alike"));
  }
  if (whole.numel() != group.size() * part.numel()) {
    throw ShapeError(concat(where(group, collective), "the whole has ", whole.numel(), " elements; it must have ", group.size(),
                            " times the part's ", part.numel()));
  }
}

void check_rows(const Communicator& group, const at::Tensor& rows, const std::vector<int64_t>& send_rows,
                const std::vector<int64_t>& recv_rows) {
  check_contiguous(group, "all_to_all", rows);
  const auto ranks = static_cast<size_t>(group.size());
  const auto negative = [](int64_t count) { return count < 0; };
  if (rows.dim() == 0) throw ShapeError(where(group, "all_to_all") + "a scalar has no rows");
  if (send_rows.size() != ranks || recv_rows.size() != ranks) {
    throw ShapeError(concat(where(group, "all_to_all"), send_rows.size(), " counts to send and ", recv_rows.size(),
                            " to receive; each must be one for each of the ", ranks, " ranks"));
  }
  if (std::any_of(send_rows.begin(), send_rows.end(), negative) || std::any_of(recv_rows.begin(), recv_rows.end(), negative)) {
    throw ShapeError(where(group, "all_to_all") + "a count is negative");
  }
  const int64_t total = std::accumulate(send_rows.begin(), send_rows.end(), int64_t{0});
  if (total != rows.size(0)) {
    throw ShapeError(
        concat(where(group, "all_to_all"), "the counts to send add up to ", total, "; they must to the ", rows.size(0), " rows"));
  }
  const auto self = static_cast<size_t>(group.rank());
  if (send_rows[self] != recv_rows[self]) {
    throw ShapeError(concat(where(group, "all_to_all"), send_rows[self], " rows to itself, but ", recv_rows[self], " from itself"));
  }
}

at::Tensor empty_rows(const at::Tensor& rows, const std::vector<int64_t>& recv_rows) {
  std::vector<int64_t> shape = rows.sizes().vec();
  shape[0] = std::accumulate(recv_rows.begin(), recv_rows.end(), int64_t{0});
  return at::empty(shape, rows.options());
}

int64_t row_bytes(const at::Tensor& rows) {
  int64_t bytes = static_cast<int64_t>(rows.element_size());
  for (int64_t dimension = 1; dimension < rows.dim(); ++dimension) bytes *= rows.size(dimension);
  return bytes;
}

}  // namespace pimoe
