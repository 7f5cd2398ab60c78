#include "checkpoint/host_copy.h"

#include "parallel/device.h"

#include <ATen/ops/empty.h>

namespace pimoe {

Snapshot HostCopy::take(const Snapshot& live, c10::Device device) {
  Snapshot copy = live;
  buffers_.resize(copy.pieces.size());
  for (size_t index = 0; index < copy.pieces.size(); ++index) {
    at::Tensor& values = copy.pieces[index].values;
    at::Tensor& buffer = buffers_[index];
    if (!buffer.defined() || buffer.numel() != values.numel() || buffer.scalar_type() != values.scalar_type()) {
      buffer = pinned(at::empty({values.numel()}, at::TensorOptions().dtype(values.scalar_type())), device);
    }
    buffer.copy_(values.flatten(), /*non_blocking=*/true);
    values = buffer;
  }
  synchronize(device);
  return copy;
}

}  // namespace pimoe
