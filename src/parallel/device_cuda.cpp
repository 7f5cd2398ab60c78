#include "base/errors.h"
#include "base/text.h"
#include "parallel/device.h"
#include "parallel/host_device.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sum.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <torch/csrc/cuda/memory_snapshot.h>

#include <atomic>
#include <optional>

namespace pimoe {
namespace {

cudaDeviceProp properties_of(c10::Device device) {
  cudaDeviceProp properties{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.index()));
  return properties;
}

/// What tensors asked for: blocks may be larger than that by up to 1 MiB each, by chance.
int64_t requested_bytes(c10::Device device) {
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
  return stats.requested_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].current;
}

int64_t most_allocated_bytes(c10::Device device) {
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
  return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}

/// cuBLAS takes a block to work in from the allocator of tensors for each thread that multiplies, and keeps it. The two threads that do, this
/// one and autograd's, take theirs here, before anything is measured. @returns bytes of both
int64_t take_blas_workspaces(c10::Device device) {
  const at::AutoGradMode gradients(true);
  const at::Tensor one = at::ones({16, 16}, at::TensorOptions().device(device)).requires_grad_();
  const int64_t before = requested_bytes(device);
  at::mm(one, one).sum().backward();
  one.mutable_grad().reset();
  return requested_bytes(device) - before;
}

std::atomic<int64_t> blas_workspaces = 0;  // of the device in use

}  // namespace

int gpu_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();  // no driver or no device is an answer, not an error for the next call to report
  return 0;
}

void use_device(c10::Device device) {
  if (device.is_cpu()) return use_host();
  if (device.index() < 0 || device.index() >= gpu_count()) {
    throw ConfigError(concat("device ", device.str(), " is not there; visible GPUs: ", gpu_count()));
  }
  at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
  c10::cuda::set_device(device.index());
  if (blas_workspaces == 0) blas_workspaces = take_blas_workspaces(device);
}

std::string device_name(c10::Device device) { return device.is_cpu() ? host_name_of_cpu() : properties_of(device).name; }

std::string device_identity(c10::Device device) {
  if (device.is_cpu()) return "cpu";
  const cudaDeviceProp properties = properties_of(device);
  return std::string(properties.uuid.bytes, sizeof(properties.uuid.bytes));
}

void synchronize(c10::Device device) {
  if (device.is_cpu()) return;
  const c10::cuda::CUDAGuard guard(device);
  c10::cuda::device_synchronize();
}

MemoryUse memory_use(c10::Device device) {
  if (device.is_cpu()) return host_memory_use();
  return {requested_bytes(device) - blas_workspaces, most_allocated_bytes(device) - blas_workspaces};
}

int64_t free_bytes(c10::Device device) {
  if (device.is_cpu()) return host_free_bytes();
  const c10::cuda::CUDAGuard guard(device);
  size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

void forget_peak_memory(c10::Device device) {
  if (device.is_cpu()) return forget_host_peak_memory();
  c10::cuda::CUDACachingAllocator::resetPeakStats(device.index());
}

void record_allocations(bool on) {
  if (gpu_count() == 0) return;
  constexpr size_t kMostRecords = 1'000'000;  // of a few hundred bytes each; older ones go first
  torch::cuda::_record_memory_history(on ? std::optional<std::string>("all") : std::nullopt, /*context=*/"all", /*stacks=*/"all",
                                      kMostRecords,
                                      /*clearHistory=*/on);
}

std::string allocations_as_pickle() { return gpu_count() == 0 ? "" : torch::cuda::_memory_snapshot_pickled(); }

void observe_out_of_memory(std::function<void()> observer) {
  if (gpu_count() == 0) return;
  c10::cuda::CUDACachingAllocator::attachOutOfMemoryObserver(
      [observer = std::move(observer)](int64_t /*device*/, size_t /*allocated*/, size_t /*total*/, size_t /*free*/) { observer(); });
}

std::string cuda_version() {
  int version = 0;
  (void)cudaRuntimeGetVersion(&version);  // never fails; C10_CUDA_CHECK would ask for a driver, which a machine without GPUs has not
  return concat(version / 1000, ".", version / 10 % 100);
}

bool has_fast_bfloat16(c10::Device device) { return device.is_cpu() ? host_has_fast_bfloat16() : properties_of(device).major >= 8; }

double peak_flops(c10::Device device) { return device.is_cpu() ? 0 : peak_flops_of(device_name(device)); }

TimeMark TimeMark::now(c10::Device device) {
  TimeMark mark;
  if (device.is_cpu()) {
    mark.host_ = std::chrono::steady_clock::now();
  } else {
    // The default one takes the time; one inside of a DeviceGraph takes each replay's.
    auto event = std::make_shared<c10::cuda::CUDAEvent>(cudaEventDefault | cudaEventExternal);
    event->record(c10::cuda::getCurrentCUDAStream(device.index()));
    mark.event_ = std::move(event);
  }
  return mark;
}

PendingNumbers::PendingNumbers(const at::Tensor& numbers) {
  if (numbers.is_cpu()) {
    host_ = numbers;
    return;
  }
  host_ = host_buffer(numbers.numel(), numbers.scalar_type(), numbers.device()).view(numbers.sizes());
  host_.copy_(numbers, /*non_blocking=*/true);
  auto event = std::make_shared<c10::cuda::CUDAEvent>();
  event->record(c10::cuda::getCurrentCUDAStream(numbers.device().index()));
  event_ = std::move(event);
}

const at::Tensor& PendingNumbers::wait() const {
  if (event_) static_cast<const c10::cuda::CUDAEvent*>(event_.get())->synchronize();
  return host_;
}

double TimeMark::milliseconds_since(const TimeMark& earlier) const {
  if (!event_) return std::chrono::duration<double, std::milli>(host_ - earlier.host_).count();
  return static_cast<const c10::cuda::CUDAEvent*>(earlier.event_.get())
      ->elapsed_time(*static_cast<const c10::cuda::CUDAEvent*>(event_.get()));
}

int64_t current_stream_id(c10::Device device) {
  return device.is_cuda() ? static_cast<int64_t>(c10::cuda::getCurrentCUDAStream(device.index()).id()) : 0;
}

struct SideStream::State {
  std::optional<c10::cuda::CUDAStream> stream;  // nothing on the CPU
  bool has_run = false;                         // since the last join
};

SideStream::SideStream(c10::Device device, Priority priority) : state_(std::make_unique<State>()) {
  if (device.is_cuda()) state_->stream = c10::cuda::getStreamFromPool(/*isHighPriority=*/priority == Priority::kHigh, device.index());
}

SideStream::~SideStream() = default;

void SideStream::run(const std::vector<at::Tensor>& tensors, const std::function<void()>& work) {
  if (!state_->stream) {
    work();
    return;
  }
  const c10::cuda::CUDAStream side = *state_->stream;
  const c10::cuda::CUDAStream caller = c10::cuda::getCurrentCUDAStream(side.device_index());
  follow();
  for (const at::Tensor& tensor : tensors) {
    tensor.record_stream(side.unwrap());
    tensor.record_stream(caller.unwrap());
  }
  const c10::cuda::CUDAStreamGuard guard(side);
  work();
}

at::Tensor SideStream::compute(const std::vector<at::Tensor>& inputs, const std::function<at::Tensor()>& work) {
  at::Tensor result;
  run(inputs, [&] { result = work(); });
  // Its memory is the side stream's, and given back there: not before the caller's stream has read it.
  if (state_->stream) result.record_stream(c10::cuda::getCurrentCUDAStream(state_->stream->device_index()).unwrap());
  return result;
}

void SideStream::follow() {
  if (!state_->stream) return;
  c10::cuda::CUDAEvent enqueued;
  enqueued.record(c10::cuda::getCurrentCUDAStream(state_->stream->device_index()));
  enqueued.block(*state_->stream);
  state_->has_run = true;
}

void SideStream::join() {
  // A stream that is being recorded (DeviceGraph) may not wait for work outside of the recording.
  if (!state_->has_run) return;
  state_->has_run = false;
  c10::cuda::CUDAEvent done;
  done.record(*state_->stream);
  done.block(c10::cuda::getCurrentCUDAStream(state_->stream->device_index()));
}

at::Tensor host_buffer(int64_t count, at::ScalarType dtype, c10::Device device) {
  return at::empty({count}, at::TensorOptions().dtype(dtype).pinned_memory(device.is_cuda()));
}

at::Tensor pinned(const at::Tensor& tensor, c10::Device device) {
  if (device.is_cpu() || tensor.is_pinned()) return tensor;
  at::Tensor result = host_buffer(tensor.numel(), tensor.scalar_type(), device).view(tensor.sizes());
  result.copy_(tensor);
  return result;
}

}  // namespace pimoe
