#include "base/errors.h"
#include "parallel/device_graph.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

namespace pimoe {

struct DeviceGraph::State {
  at::cuda::CUDAGraph graph;
};

DeviceGraph::DeviceGraph(c10::Device device, const std::function<void()>& work, const DeviceGraph* beside)
    : state_(std::make_unique<State>()) {
  if (!device.is_cuda()) throw Error("a device graph needs a GPU, not " + device.str());
  // What eager steps have left in the allocator is of no use to the graph, whose blocks come from a pool of its own.
  c10::cuda::CUDACachingAllocator::emptyCache();
  at::cuda::CUDAGraph& graph = state_->graph;
  // Other threads read data ahead meanwhile, and may page-lock memory for it.
  const at::cuda::MempoolId_t memory = beside != nullptr ? beside->state_->graph.pool() : at::cuda::MempoolId_t{0, 0};
  graph.capture_begin(memory, cudaStreamCaptureModeThreadLocal);
  try {
    work();
    graph.capture_end();
  } catch (...) {
    // Ends the recording in whatever state it is, so that the stream can be used again.
    const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream(device.index());
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone) {
      cudaGraph_t unfinished = nullptr;
      (void)cudaStreamEndCapture(stream, &unfinished);
      if (unfinished != nullptr) (void)cudaGraphDestroy(unfinished);
    }
    (void)cudaGetLastError();
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device.index(), graph.pool());
    } catch (const c10::Error&) {
      // capture_end had got as far as that
    }
    throw;
  }
}

DeviceGraph::~DeviceGraph() = default;

void DeviceGraph::replay() { state_->graph.replay(); }

}  // namespace pimoe
