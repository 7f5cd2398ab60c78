#include "train/precision.h"

#include "parallel/device.h"

#include <ATen/ops/tensor.h>

namespace pimoe {

at::ScalarType compute_dtype(Precision precision, c10::Device device) {
  switch (precision) {
    case Precision::kFloat64: return at::kDouble;
    case Precision::kFloat32: return at::kFloat;
    case Precision::kBfloat16: return at::kBFloat16;
    case Precision::kFloat16: return at::kHalf;
    case Precision::kAuto: break;
  }
  return has_fast_bfloat16(device) ? at::kBFloat16 : at::kFloat;
}

at::ScalarType agreed_dtype(Precision precision, const ProcessMesh& mesh) {
  if (precision != Precision::kAuto) return compute_dtype(precision, mesh.device());
  at::Tensor fast = at::tensor({static_cast<int64_t>(has_fast_bfloat16(mesh.device()) ? 1 : 0)}, at::kLong);
  mesh.control().all_reduce(fast, ReduceOp::kMin);
  return fast.item<int64_t>() != 0 ? at::kBFloat16 : at::kFloat;
}

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return "float64";
    case at::kBFloat16: return "bfloat16";
    case at::kHalf: return "float16";
    default: return "float32";
  }
}

}  // namespace pimoe
