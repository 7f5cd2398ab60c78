#include "base/errors.h"
#include "base/text.h"
#include "parallel/device.h"
#include "parallel/host_device.h"

#include <ATen/ops/empty.h>

namespace pimoe {
namespace {

void check_cpu(c10::Device device) {
  if (!device.is_cpu()) throw ConfigError(concat("device ", device.str(), ": this build has no CUDA; build with PIMOE_CUDA=ON"));
}

}  // namespace

int gpu_count() { return 0; }

void use_device(c10::Device device) {
  check_cpu(device);
  use_host();
}

std::string device_name(c10::Device device) {
  check_cpu(device);
  return host_name_of_cpu();
}

std::string device_identity(c10::Device device) {
  check_cpu(device);
  return "cpu";
}

void synchronize(c10::Device device) { check_cpu(device); }

MemoryUse memory_use(c10::Device device) {
  check_cpu(device);
  return host_memory_use();
}

int64_t free_bytes(c10::Device device) {
  check_cpu(device);
  return host_free_bytes();
}

void forget_peak_memory(c10::Device device) {
  check_cpu(device);
  forget_host_peak_memory();
}

void record_allocations(bool /*on*/) {}

std::string allocations_as_pickle() { return ""; }

void observe_out_of_memory(std::function<void()> /*observer*/) {}

std::string cuda_version() { return ""; }

bool has_fast_bfloat16(c10::Device device) {
  check_cpu(device);
  return host_has_fast_bfloat16();
}

double peak_flops(c10::Device device) {
  check_cpu(device);
  return 0;
}

TimeMark TimeMark::now(c10::Device device) {
  check_cpu(device);
  TimeMark mark;
  mark.host_ = std::chrono::steady_clock::now();
  return mark;
}

PendingNumbers::PendingNumbers(const at::Tensor& numbers) : host_(numbers) { check_cpu(numbers.device()); }

const at::Tensor& PendingNumbers::wait() const { return host_; }

double TimeMark::milliseconds_since(const TimeMark& earlier) const {
  return std::chrono::duration<double, std::milli>(host_ - earlier.host_).count();
}

struct SideStream::State {};

int64_t current_stream_id(c10::Device /*device*/) { return 0; }

SideStream::SideStream(c10::Device device, Priority /*priority*/) { check_cpu(device); }
SideStream::~SideStream() = default;
void SideStream::run(const std::vector<at::Tensor>& /*tensors*/, const std::function<void()>& work) { work(); }
at::Tensor SideStream::compute(const std::vector<at::Tensor>& /*inputs*/, const std::function<at::Tensor()>& work) { return work(); }
void SideStream::follow() {}
void SideStream::join() {}

at::Tensor host_buffer(int64_t count, at::ScalarType dtype, c10::Device device) {
  check_cpu(device);
  return at::empty({count}, at::TensorOptions().dtype(dtype));
}

at::Tensor pinned(const at::Tensor& tensor, c10::Device device) {
  check_cpu(device);
  return tensor;
}

}  // namespace pimoe
