#include "checkpoint/host_copy.h"

#include "parallel/device.h"

namespace pimoe {
namespace {

struct Size {
  int64_t count;
  at::ScalarType dtype;
};

}  // namespace

void HostCopy::prepare(const Snapshot& live, c10::Device device) {
  if (device.is_cpu()) return;  // ordinary memory costs nothing before it is written
  std::vector<Size> sizes;
  for (const StatePiece& state : live.pieces) sizes.push_back({state.values.numel(), state.values.scalar_type()});
  preparing_ = std::async(std::launch::async, [sizes = std::move(sizes), device] {
    use_device(device);  // this thread's, or it would take memory of the first GPU
    std::vector<at::Tensor> buffers;
    for (const Size& size : sizes) buffers.push_back(host_buffer(size.count, size.dtype, device));
    return buffers;
  });
}

Snapshot HostCopy::take(const Snapshot& live, c10::Device device) {
  if (preparing_.valid()) buffers_ = preparing_.get();
  Snapshot copy = live;
  buffers_.resize(copy.pieces.size());
  for (size_t index = 0; index < copy.pieces.size(); ++index) {
    at::Tensor& values = copy.pieces[index].values;
    at::Tensor& buffer = buffers_[index];
    if (!buffer.defined() || buffer.numel() != values.numel() || buffer.scalar_type() != values.scalar_type()) {
      buffer = host_buffer(values.numel(), values.scalar_type(), device);
    }
    buffer.copy_(values.flatten(), /*non_blocking=*/true);
    values = buffer;
  }
  synchronize(device);
  return copy;
}

}  // namespace pimoe
