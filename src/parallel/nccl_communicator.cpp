#include "parallel/nccl_communicator.h"

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"
#include "parallel/communicator_checks.h"
#include "parallel/mpi_session.h"
#include "parallel/nccl_direct_exchange.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

namespace pimoe {
namespace {

ncclDataType_t nccl_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return ncclFloat32;
    case at::kDouble: return ncclFloat64;
    case at::kLong: return ncclInt64;
    case at::kInt: return ncclInt32;
    default: throw ShapeError(concat("dtype ", c10::toString(dtype), " is not reduced"));
  }
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kMax: return ncclMax;
    case ReduceOp::kMin: return ncclMin;
    default: return ncclSum;
  }
}

/// What moves without arithmetic moves as bytes, so that every dtype does.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<HostCommunicator> host, int device)
      : host_(std::move(host)), device_(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)) {
    std::vector<int> ranks;
    for (const std::string& text : host_->all_gather_text(std::to_string(MpiSession::launcher_rank()))) ranks.push_back(std::stoi(text));
    progress_.group = ProgressGroup::of(name().substr(0, name().rfind(" group of ")), ranks);
    if (size() == 1) return;
    // Only what the user left open. Multicast (NVLS) needs rights that containers and shared hosts often lack.
    setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", /*overwrite=*/0);
    setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
    ncclUniqueId id{};
    std::string trouble;
    if (rank() == 0) {
      const ncclResult_t result = ncclGetUniqueId(&id);
      if (result != ncclSuccess) trouble = concat("ncclGetUniqueId: ", ncclGetErrorString(result), "; ", ncclGetLastError(nullptr));
    }
    trouble = host_->agree(trouble);  // before the others wait for an id that does not come
    if (!trouble.empty()) throw CommError(concat("init in ", name(), ": ", trouble));
    const std::string text = host_->broadcast_text(std::string(id.internal, sizeof(id.internal)), 0);
    std::memcpy(id.internal, text.data(), sizeof(id.internal));
    const PatientOperation first_contact;
    const c10::cuda::CUDAGuard guard(device_);
    check(ncclCommInitRank(&communicator_, size(), id, rank()), "init");
  }

  ~NcclCommunicator() override {
    if (communicator_ == nullptr) return;
    const c10::cuda::CUDAGuard guard(device_);
    direct_.reset();
    // Destroying waits for the peers, who may be gone when an exception brought us here.
    if (std::uncaught_exceptions() > 0) {
      ncclCommAbort(communicator_);
    } else {
      ncclCommDestroy(communicator_);
    }
  }

  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  const std::string& name() const override { return host_->name(); }

  std::unique_ptr<Communicator> split(int color, int key, const std::string& name) const override {
    return std::make_unique<NcclCommunicator>(host_->split_host(color, key, name), device_.index());
  }

  void all_reduce(at::Tensor& tensor, ReduceOp op) const override {
    check_reducible(*this, "all_reduce", tensor);
    check_device("all_reduce", tensor);
    if (size() == 1 || tensor.numel() == 0) return;
    const ProgressCollective mark("all_reduce", progress_);
    count_ring(tensor, 2);
    const c10::cuda::CUDAGuard guard(device_);
    void* data = tensor.data_ptr();
    check(ncclAllReduce(data, data, count_of(tensor), nccl_type(tensor.scalar_type()), nccl_op(op), communicator_, stream()), "all_reduce");
  }

  void broadcast(at::Tensor& tensor, int root) const override {
    check_contiguous(*this, "broadcast", tensor);
    check_device("broadcast", tensor);
    if (size() == 1 || tensor.numel() == 0) return;
    const ProgressCollective mark("broadcast", progress_);
    count_ring(tensor, 1);
    const c10::cuda::CUDAGuard guard(device_);
    void* data = tensor.data_ptr();
    check(ncclBroadcast(data, data, tensor.nbytes(), ncclUint8, root, communicator_, stream()), "broadcast");
  }

  void all_gather(at::Tensor& gathered, const at::Tensor& shard) const override {
    check_parts(*this, "all_gather", gathered, shard);
    check_device("all_gather", gathered);
    if (shard.numel() == 0) return;
    if (size() == 1) {
      copy_unless_same(gathered, shard);
      return;
    }
    const ProgressCollective mark("all_gather", progress_);
    count_ring(gathered, 1);
    const c10::cuda::CUDAGuard guard(device_);
    check(ncclAllGather(shard.data_ptr(), gathered.data_ptr(), shard.nbytes(), ncclUint8, communicator_, stream()), "all_gather");
  }

  void reduce_scatter(at::Tensor& shard, const at::Tensor& full) const override {
    check_reducible(*this, "reduce_scatter", shard);
    check_parts(*this, "reduce_scatter", full, shard);
    check_device("reduce_scatter", full);
    if (shard.numel() == 0) return;
    if (size() == 1) {
      copy_unless_same(shard, full);
      return;
    }
    const ProgressCollective mark("reduce_scatter", progress_);
    count_ring(full, 1);
    const c10::cuda::CUDAGuard guard(device_);
    check(ncclReduceScatter(full.data_ptr(), shard.data_ptr(), count_of(shard), nccl_type(shard.scalar_type()), ncclSum, communicator_,
                            stream()),
          "reduce_scatter");
  }

  at::Tensor all_to_all(const at::Tensor& rows, const std::vector<int64_t>& send_rows,
                        const std::vector<int64_t>& recv_rows) const override {
    check_rows(*this, rows, send_rows, recv_rows);
    check_device("all_to_all", rows);
    if (size() == 1) return rows.detach();
    const ProgressCollective mark("all_to_all", progress_);
    count_rows(rows, send_rows);
    const c10::cuda::CUDAGuard guard(device_);
    const at::Tensor received = empty_rows(rows, recv_rows);
    const auto bytes = static_cast<size_t>(row_bytes(rows));
    const char* from = static_cast<const char*>(rows.data_ptr());
    char* to = static_cast<char*>(received.data_ptr());
    check(ncclGroupStart(), "all_to_all");
    for (int peer = 0; peer < size(); ++peer) {
      const size_t send_bytes = static_cast<size_t>(send_rows[static_cast<size_t>(peer)]) * bytes;
      const size_t recv_bytes = static_cast<size_t>(recv_rows[static_cast<size_t>(peer)]) * bytes;
      if (send_bytes > 0) check(ncclSend(from, send_bytes, ncclUint8, peer, communicator_, stream()), "all_to_all");
      if (recv_bytes > 0) check(ncclRecv(to, recv_bytes, ncclUint8, peer, communicator_, stream()), "all_to_all");
      from += send_bytes;
      to += recv_bytes;
    }
    check(ncclGroupEnd(), "all_to_all");
    return received;
  }

  DirectExchange* direct_exchange(c10::Device device) const override {
    if (size() == 1 || device != device_) return nullptr;
    if (!direct_) {
      const PatientOperation set_up;
      const c10::cuda::CUDAGuard guard(device_);
      direct_ = make_nccl_direct_exchange(communicator_, *host_, progress_);
    }
    return direct_->get();
  }

  void barrier() const override {
    const ProgressCollective mark("barrier", progress_);
    const c10::cuda::CUDAGuard guard(device_);
    wait_for_stream();
    host_->barrier();
  }

 private:
  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream(device_.index()); }

  static size_t count_of(const at::Tensor& tensor) { return static_cast<size_t>(tensor.numel()); }

  static void copy_unless_same(at::Tensor& to, const at::Tensor& from) {
    if (to.data_ptr() != from.data_ptr()) to.detach().view(-1).copy_(from.detach().view(-1));
  }

  void check(ncclResult_t result, const char* collective) const {
    if (result == ncclSuccess) return;
    throw CommError(
        concat(collective, " in ", name(), ", rank ", rank(), ": ", ncclGetErrorString(result), "; ", ncclGetLastError(communicator_)));
  }

  void check_device(const char* collective, const at::Tensor& tensor) const {
    if (tensor.device() == device_) return;
    throw ShapeError(concat(collective, " in ", name(), ", rank ", rank(), ": the tensor is on ", tensor.device().str(), "; it must be on ",
                            device_.str()));
  }

  /// Looks for errors while it waits: a kernel whose peer is gone never ends by itself.
  void wait_for_stream() const {
    for (cudaError_t state = cudaStreamQuery(stream()); state != cudaSuccess; state = cudaStreamQuery(stream())) {
      if (state != cudaErrorNotReady) C10_CUDA_CHECK(state);
      check_async_error();
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    check_async_error();
  }

  void check_async_error() const {
    if (communicator_ == nullptr) return;
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(communicator_, &state), "barrier");
    check(state, "barrier");
  }

  std::unique_ptr<HostCommunicator> host_;
  c10::Device device_;
  ncclComm_t communicator_ = nullptr;  // none in a group of one
  ProgressCounter progress_;
  mutable std::optional<std::unique_ptr<DirectExchange>> direct_;  ///< empty: nobody has asked yet
};

}  // namespace

std::string nccl_version() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "unknown";
  return concat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<HostCommunicator> host, int device) {
  return std::make_unique<NcclCommunicator>(std::move(host), device);
}

}  // namespace pimoe
