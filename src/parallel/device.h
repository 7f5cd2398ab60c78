#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace pimoe {

/// Everything that differs between a machine with a GPU and one without, so that no caller sees CUDA. device_cuda.cpp or device_nocuda.cpp.

/// @returns visible GPUs (CUDA_VISIBLE_DEVICES respected); 0 in a build without CUDA.
int gpu_count();

/// Makes `device` current for this thread (CUDA) and readies libtorch for it. For the CPU, once in a process: malloc keeps what is freed, and gives
/// tensors their memory, unless the program has put an allocator of its own into libtorch's place (docs/design.md). Before any tensor of oneDNN's own
/// layouts (Tensor::to_mkldnn) is made: libtorch gives those back to whichever allocator there is then.
void use_device(c10::Device device);

/// @returns "NVIDIA H200" or the CPU's model name.
std::string device_name(c10::Device device);

/// @returns a text that two ranks of a node share only if `device` is the same GPU for both; "cpu" for the CPU.
std::string device_identity(c10::Device device);

/// Waits until everything enqueued on the device is done.
void synchronize(c10::Device device);

/// On a GPU without what libraries hold: the context, and cuBLAS' workspaces, which the caching allocator counts (32 MiB for each of two
/// threads on Hopper).
struct MemoryUse {
  int64_t now_bytes = 0;   ///< live tensors (GPU: caching allocator's; CPU: the C heap's, all arenas and mapped blocks)
  int64_t peak_bytes = 0;  ///< most since the start (GPU: allocator's peak; CPU: the process' peak resident set)
};
MemoryUse memory_use(c10::Device device);
/// From now on peak_bytes is the most since this call, where the system lets it begin anew.
void forget_peak_memory(c10::Device device);

/// Begins, or ends, noting a GPU's allocations with the C++ stacks that made them; nothing on the CPU.
void record_allocations(bool on);
/// @returns what a GPU's caching allocator holds, and what was noted, as docs.pytorch.org/memory_viz reads it; "" without a GPU
std::string allocations_as_pickle();

/// From now on `observer` is called when a GPU's memory cannot be had, before the error is thrown; never on the CPU. @param observer  throws nothing
void observe_out_of_memory(std::function<void()> observer);

/// @returns CUDA's version, "13.0"; "" in a build without.
std::string cuda_version();

/// @returns bytes of the device that nobody has taken: of a GPU, or of the host's memory (below a container's limit, where it has one)
int64_t free_bytes(c10::Device device);

/// @returns whether bfloat16 products are fast: CPU with AMX-BF16 or AVX512-BF16, GPU of compute capability 8.0 or more.
bool has_fast_bfloat16(c10::Device device);

/// @returns peak dense bfloat16 FLOP/s from a table of known devices, 0 where unknown (CPUs).
double peak_flops(c10::Device device);
/// The same of a device that need not be here, by its driver's name ("NVIDIA H200") or words of it.
double peak_flops_of(const std::string& name);

/// A point in time on the device: what was enqueued on the current stream before it is done (CPU: the clock's now).
class TimeMark {
 public:
  static TimeMark now(c10::Device device);
  /// REQUIRES both of one device, and synchronize() or a copy to the host after them.
  double milliseconds_since(const TimeMark& earlier) const;

 private:
  std::chrono::steady_clock::time_point host_;
  std::shared_ptr<void> event_;  ///< CUDA
};

/// Numbers on their way from the device to the host: begun where they are made, waited for where they are read, so that the device has work
/// meanwhile.
class PendingNumbers {
 public:
  /// @param numbers  int64 on `device`, as the current stream makes them
  explicit PendingNumbers(const at::Tensor& numbers);
  /// @returns them on the host
  const at::Tensor& wait() const;

 private:
  at::Tensor host_;
  std::shared_ptr<void> event_;  ///< CUDA
};

/// @returns which of the device's streams is current on this thread; always the same on the CPU
int64_t current_stream_id(c10::Device device);

/// A CUDA stream beside the current one, for work that overlaps with what is there. On the CPU `run` and `compute` just call.
class SideStream {
 public:
  enum class Priority {
    kHigh,  ///< what others wait for: its blocks go before those of the current stream
    kLow    ///< what fills gaps
  };
  explicit SideStream(c10::Device device, Priority priority = Priority::kHigh);
  ~SideStream();
  /// Runs `work` with the side stream current, after all that is now enqueued on the caller's stream. `tensors` it touches are recorded on both.
  void run(const std::vector<at::Tensor>& tensors, const std::function<void()>& work);
  /// As run, of work that makes a tensor, which the caller may use after join(). Autograd runs the work's backward on the side stream too.
  at::Tensor compute(const std::vector<at::Tensor>& inputs, const std::function<at::Tensor()>& work);
  /// What is run from now on, and join(), come after all that is now enqueued on the current stream as well.
  void follow();
  /// The caller's stream waits for all that was run.
  void join();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// @returns a host tensor [count], not initialized, that a GPU copies to and from without blocking (page-locked); an ordinary one without a GPU.
/// @cost with a GPU up to a second for each gigabyte
at::Tensor host_buffer(int64_t count, at::ScalarType dtype, c10::Device device);

/// @returns a host tensor like `tensor` that a GPU can copy from without blocking (page-locked); an ordinary one without a GPU.
at::Tensor pinned(const at::Tensor& tensor, c10::Device device);

}  // namespace pimoe
