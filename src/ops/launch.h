#pragma once

/// What every operation of this folder shares: checks at the door, and the choice between CPU threads and a CUDA launch.

#include "base/errors.h"
#include "base/text.h"
#include "ops/kernels.h"

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include <functional>
#include <string>

namespace pimoe {

#ifdef PIMOE_CUDA
constexpr bool kCudaBuild = true;
#else
constexpr bool kCudaBuild = false;
#endif

/// @throws ShapeError with the parts as its message unless `holds`.
template <class... Parts>
void check_shape(bool holds, const Parts&... parts) {
  if (!holds) throw ShapeError(concat(parts...));
}

/// @returns e.g. "[3, 4] Float"
std::string describe(const at::Tensor& tensor);

/// @throws ShapeError unless `tensor` has this dtype, is contiguous and lies on the device of `like`.
void check_operand(const char* name, const at::Tensor& tensor, at::ScalarType dtype, const at::Tensor& like);

/// @throws ShapeError when the dtype is none of float64, float32, bfloat16, float16.
Dtype dtype_of(const at::Tensor& tensor);

/// @returns float64 for float64, float32 for every other floating dtype: what sums are made in.
at::ScalarType arithmetic_type(const at::Tensor& tensor);

/// Shares the rows [0, rows) out over libtorch's threads, some 64 KiB or more to each.
void parallel_rows(int64_t rows, int64_t row_bytes, const std::function<void(int64_t begin, int64_t end)>& kernel);

/// Shares tasks that take long, [0, tasks), out over libtorch's threads.
void parallel_tasks(int64_t tasks, const std::function<void(int64_t begin, int64_t end)>& work);

/// Runs `cpu(begin, end)` over ranges of rows, or `cuda()` once with the device of `on` current. No rows: nothing runs.
template <class Cpu, class Cuda>
void launch(const at::Tensor& on, int64_t rows, int64_t row_bytes, const Cpu& cpu, [[maybe_unused]] const Cuda& cuda) {
  if (rows == 0) return;
  if (on.is_cpu()) return parallel_rows(rows, row_bytes, cpu);
  // Discarded without CUDA, so that nothing asks the linker for kernels which are not there.
  if constexpr (kCudaBuild) {
    const c10::DeviceGuard guard(on.device());
    cuda();
  } else {
    throw ShapeError(concat("tensor is on ", on.device().str(), ": this build has kernels for the CPU alone"));
  }
}

}  // namespace pimoe
