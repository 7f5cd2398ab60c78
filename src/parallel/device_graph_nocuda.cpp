#include "base/errors.h"
#include "parallel/device_graph.h"

namespace pimoe {

struct DeviceGraph::State {};

DeviceGraph::DeviceGraph(c10::Device /*device*/, const std::function<void()>& /*work*/, const DeviceGraph* /*beside*/) {
  throw Error("a device graph needs a GPU, and this build has no CUDA");
}
DeviceGraph::~DeviceGraph() = default;
void DeviceGraph::replay() {}

}  // namespace pimoe
