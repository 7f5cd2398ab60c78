#pragma once

#include "checkpoint/snapshot.h"

#include <c10/core/Device.h>

#include <future>
#include <vector>

namespace pimoe {

/// Host memory for a copy of a snapshot (page-locked where a GPU copies into it), kept from one save to the next.
class HostCopy {
 public:
  /// Makes the memory on a thread of its own, so that no save has to wait for it: page-locking takes seconds where there are many gigabytes.
  /// @param live  whose pieces will be taken
  void prepare(const Snapshot& live, c10::Device device);

  /// @param live  its pieces alias what training goes on to change
  /// @returns `live` with pieces that alias this object's memory instead; valid until the next take.
  /// @cost host memory of the pieces, once; one copy, which the device has done on return
  Snapshot take(const Snapshot& live, c10::Device device);

 private:
  std::vector<at::Tensor> buffers_;
  std::future<std::vector<at::Tensor>> preparing_;
};

}  // namespace pimoe
