#include "ops/launch.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

namespace pimoe {

std::string describe(const at::Tensor& tensor) { return concat(tensor.sizes(), " ", tensor.scalar_type()); }

void check_operand(const char* name, const at::Tensor& tensor, at::ScalarType dtype, const at::Tensor& like) {
  check_shape(tensor.scalar_type() == dtype, name, " has dtype ", tensor.scalar_type(), ", needs ", dtype);
  check_shape(tensor.is_contiguous(), name, " ", describe(tensor), " with strides ", tensor.strides(), " must be contiguous");
  check_shape(tensor.device() == like.device(), name, " is on ", tensor.device(), ", needs ", like.device());
}

Dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble: return Dtype::kFloat64;
    case at::kFloat: return Dtype::kFloat32;
    case at::kBFloat16: return Dtype::kBFloat16;
    case at::kHalf: return Dtype::kFloat16;
    default: throw ShapeError(concat("dtype ", tensor.scalar_type(), " is none of float64, float32, bfloat16, float16"));
  }
}

at::ScalarType arithmetic_type(const at::Tensor& tensor) { return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

void parallel_rows(int64_t rows, int64_t row_bytes, const std::function<void(int64_t begin, int64_t end)>& kernel) {
  constexpr int64_t kGrainBytes = 64 << 10;
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / std::max<int64_t>(1, row_bytes));
  at::parallel_for(0, rows, grain, kernel);
}

void parallel_tasks(int64_t tasks, const std::function<void(int64_t begin, int64_t end)>& work) {
  // Threads take a part when they have done the last, ever smaller ones: one that the machine holds up does not hold up the others.
  const int64_t threads = std::min<int64_t>(tasks, at::get_num_threads());
  if (threads <= 1) {
    if (tasks > 0) work(0, tasks);
    return;
  }
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t begin = next.load(); begin < tasks;) {
      const int64_t end = begin + std::max<int64_t>(1, (tasks - begin) / (4 * threads));
      if (!next.compare_exchange_weak(begin, end)) continue;
      work(begin, end);
      begin = next.load();
    }
  });
}

}  // namespace pimoe
