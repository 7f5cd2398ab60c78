#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// Kernels, copies and fills of one name.
struct KernelTime {
  std::string name;
  double seconds = 0.0;
  int64_t count = 0;
};

/// What a GPU did from the first to the last of a work's kernels, copies and fills.
struct GpuTimeline {
  double seconds = 0.0;
  double busy_seconds = 0.0;        ///< something ran, on whichever stream
  std::vector<KernelTime> kernels;  ///< the longest first

  double busy_share() const { return busy_seconds / seconds; }
  int64_t count() const;
};

/// Of one thing that ran.
struct GpuEvent {
  std::string name;
  uint64_t begin = 0;  ///< nanoseconds
  uint64_t end = 0;
};
/// @returns nothing where there are no events
std::optional<GpuTimeline> timeline_of(std::vector<GpuEvent> events);

/// Runs `work`, which waits for the device itself, and looks at what the GPU did, by CUPTI's records, which libtorch's profiler gathers.
/// @returns nothing on a CPU, or where CUPTI is not allowed to look
std::optional<GpuTimeline> record_gpu(c10::Device device, const std::function<void()>& work);

}  // namespace pimoe
