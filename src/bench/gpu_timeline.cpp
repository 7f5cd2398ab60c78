#include "bench/gpu_timeline.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <map>
#include <numeric>

namespace pimoe {

int64_t GpuTimeline::count() const {
  return std::accumulate(kernels.begin(), kernels.end(), int64_t{0},
                         [](int64_t sum, const KernelTime& kernel) { return sum + kernel.count; });
}

std::optional<GpuTimeline> timeline_of(std::vector<GpuEvent> events) {
  if (events.empty()) return std::nullopt;
  std::sort(events.begin(), events.end(), [](const GpuEvent& left, const GpuEvent& right) { return left.begin < right.begin; });
  constexpr double kNanosecond = 1e-9;
  GpuTimeline timeline;
  std::map<std::string, KernelTime> by_name;
  uint64_t busy_until = events.front().begin;
  for (const GpuEvent& event : events) {
    KernelTime& kernel = by_name[event.name];
    kernel.name = event.name;
    kernel.seconds += static_cast<double>(event.end - event.begin) * kNanosecond;
    ++kernel.count;
    const uint64_t begin = std::max(event.begin, busy_until);
    if (event.end > begin) timeline.busy_seconds += static_cast<double>(event.end - begin) * kNanosecond;
    busy_until = std::max(busy_until, event.end);
  }
  timeline.seconds = static_cast<double>(busy_until - events.front().begin) * kNanosecond;
  for (const auto& [name, kernel] : by_name) timeline.kernels.push_back(kernel);
  std::sort(timeline.kernels.begin(), timeline.kernels.end(),
            [](const KernelTime& left, const KernelTime& right) { return left.seconds > right.seconds; });
  return timeline;
}

std::optional<GpuTimeline> record_gpu(c10::Device device, const std::function<void()>& work) {
  if (!device.is_cuda()) {
    work();
    return std::nullopt;
  }
  namespace profiler = torch::autograd::profiler;
  const std::set<torch::profiler::impl::ActivityType> of_gpu = {torch::profiler::impl::ActivityType::CUDA};
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO);
  profiler::prepareProfiler(config, of_gpu);
  profiler::enableProfiler(config, of_gpu);
  work();
  const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();
  std::vector<GpuEvent> events;
  for (const profiler::KinetoEvent& event : result->events()) {
    if (event.deviceType() == c10::DeviceType::CUDA) events.push_back({event.name(), event.startNs(), event.endNs()});
  }
  return timeline_of(std::move(events));
}

}  // namespace pimoe
