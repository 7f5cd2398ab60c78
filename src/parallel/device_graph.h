#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>

namespace pimoe {

/// A device's work, recorded once and then started as often as wanted by one call, instead of by one call for each kernel (a CUDA graph). It reads and
/// writes the same addresses each time.
///
/// Memory that the work allocates stays its own for as long as the graph lives; tensors made inside hold what the last replay wrote.
class DeviceGraph {
 public:
  /// Calls `work`, in which nothing may wait for the device or copy from memory that the device cannot read by itself. What `work` enqueues on the
  /// current stream, also from autograd's thread, is recorded and not done.
  ///
  /// REQUIRES a CUDA `device`, and a current stream other than the default one: SideStream::run has one.
  /// @param beside  a graph whose memory this one may use too: they are not replayed at the same time, and what one leaves there the other overwrites
  /// @throws what `work` throws, and c10::Error for what cannot be recorded; then the device goes on as if nothing had been
  DeviceGraph(c10::Device device, const std::function<void()>& work, const DeviceGraph* beside = nullptr);
  ~DeviceGraph();
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  /// Enqueues the work on the current stream. @cost one call of the driver, whatever was recorded
  void replay();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pimoe
