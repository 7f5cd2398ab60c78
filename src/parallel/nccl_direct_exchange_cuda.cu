#include "base/errors.h"
#include "base/text.h"
#include "ops/cuda_math.cuh"
#include "parallel/nccl_direct_exchange.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>
#include <nccl_device.h>

#include <exception>
#include <string>

namespace pimoe {
namespace {

/// Enough that the link and the memory are never idle, and few enough that each has a multiprocessor of its own.
constexpr int kBlocks = 128;
constexpr int kWarps = 16;
/// Rows of a warp in a turn: short turns, so that little is sent before the first is taken, and taken after the last is sent.
constexpr int kDepth = 2;
constexpr int64_t kRowsAtOnce = kBlocks * kWarps;
constexpr int64_t kRowsOfTurn = kDepth * kRowsAtOnce;
/// 16-byte words that a lane has on their way at once.
constexpr int kWords = 8;

constexpr size_t kFirstBytes = size_t{2} << 20;

using Barrier = ncclLsaBarrierSession<ncclCoopCta>;

/// Of one call on one rank. The window holds P M rows of every rank: spread leaves row m of rank s at s M + m of each rank that it is for, and
/// sum_back what rank r made of row m of rank s at r M + m of rank s.
struct Call {
  ncclDevComm group;
  ncclWindow_t window;
  const int32_t* wanted;  ///< [P, M, K]
  int64_t most, choices;  ///< M, K
  int64_t count;          ///< T: this rank's own rows
  int64_t words;          ///< of a row
  const void* rows;       ///< spread: [T, D]; sum_back: [P M, D]
  void* output;           ///< spread: [P M, D]; sum_back: [T, D]
};

/// The ranks that a row is for, as bits: the same in every lane of a warp.
__device__ uint32_t ranks_of(const Call& call, int64_t rank, int64_t row) {
  const int32_t* wanted = call.wanted + (rank * call.most + row) * call.choices;
  uint32_t bits = 0;
  for (int64_t choice = threadIdx.x % 32; choice < call.choices; choice += 32) {
    if (wanted[choice] >= 0) bits |= 1u << wanted[choice];
  }
  return __reduce_or_sync(0xFFFFFFFFu, bits);
}

__device__ uint4* window_row(const Call& call, int rank, int64_t row) {
  return static_cast<uint4*>(ncclGetLsaPointer(call.window, 0, rank)) + row * call.words;
}

/// The rows of this warp in one of its block's turns: the same of every rank, for warps of one number in blocks of one number.
template <class Body>
__device__ void for_rows(int64_t turn, int64_t rows, const Body& body) {
  const int64_t first = turn * kRowsOfTurn + blockIdx.x * kWarps + threadIdx.x / 32;
  const int64_t end = min(rows, (turn + 1) * kRowsOfTurn);
  for (int64_t row = first; row < end; row += kRowsAtOnce) body(row);
}

/// A turn's rows are sent while those of the turn before are on their way, which the block then takes: the link and the memory work at the same
/// time.
template <class Send, class Take>
__device__ void in_turns(const Call& call, const Send& send, const Take& take) {
  const int64_t turns = (call.most + kRowsOfTurn - 1) / kRowsOfTurn;
  Barrier barrier(ncclCoopCta(), call.group, ncclTeamTagLsa(), blockIdx.x);
  barrier.sync(ncclCoopCta(), ::cuda::memory_order_acq_rel);  // the others' last call has taken what the window held
  for (int64_t turn = 0; turn <= turns; ++turn) {
    if (turn < turns) send(turn);
    if (turn > 0) barrier.wait(ncclCoopCta(), ::cuda::memory_order_acquire);
    if (turn < turns) barrier.arrive(ncclCoopCta(), ::cuda::memory_order_release);
    if (turn > 0) take(turn - 1);
  }
}

/// Calls store(word, value) for each word of a row that this lane has.
template <class Store>
__device__ void copy_row(const uint4* from, int64_t words, const Store& store) {
  for (int64_t begin = threadIdx.x % 32; begin < words; begin += 32 * kWords) {
    uint4 values[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if (begin + 32 * i < words) values[i] = from[begin + 32 * i];
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if (begin + 32 * i < words) store(begin + 32 * i, values[i]);
    }
  }
}

__global__ void __launch_bounds__(kWarps * 32, 1) spread_rows(const __grid_constant__ Call call) {
  const int me = call.group.lsaRank;
  uint4* arrived = static_cast<uint4*>(call.output);
  const auto send = [&](int64_t turn) {
    for_rows(turn, call.count, [&](int64_t row) {
      const uint32_t ranks = ranks_of(call, me, row);
      const int64_t place = me * call.most + row;
      copy_row(static_cast<const uint4*>(call.rows) + row * call.words, call.words, [&](int64_t word, const uint4& value) {
        for (uint32_t left = ranks; left != 0; left &= left - 1) {
          const int rank = __ffs(left) - 1;
          (rank == me ? arrived + place * call.words : window_row(call, rank, place))[word] = value;
        }
      });
    });
  };
  const auto take = [&](int64_t turn) {
    for (int rank = 0; rank < call.group.lsaSize; ++rank) {
      if (rank == me) continue;
      for_rows(turn, call.most, [&](int64_t row) {
        if ((ranks_of(call, rank, row) >> me & 1) == 0) return;
        uint4* to = arrived + (rank * call.most + row) * call.words;
        copy_row(window_row(call, me, rank * call.most + row), call.words, [&](int64_t word, const uint4& value) { to[word] = value; });
      });
    }
  };
  in_turns(call, send, take);
}

template <class T>
__global__ void __launch_bounds__(kWarps * 32, 1) sum_rows(const __grid_constant__ Call call) {
  constexpr int kNumbers = sizeof(uint4) / sizeof(T);
  constexpr int kSums = 4;  // words that a lane adds up at once
  using A = cuda::Arithmetic<T>;
  const int me = call.group.lsaRank;
  const uint4* made = static_cast<const uint4*>(call.rows);
  const auto send = [&](int64_t turn) {
    for (int step = 1; step < call.group.lsaSize; ++step) {
      const int rank = (me + step) % call.group.lsaSize;  // not all to one at a time
      for_rows(turn, call.most, [&](int64_t row) {
        if ((ranks_of(call, rank, row) >> me & 1) == 0) return;
        uint4* to = window_row(call, rank, me * call.most + row);
        copy_row(made + (rank * call.most + row) * call.words, call.words, [&](int64_t word, const uint4& value) { to[word] = value; });
      });
    }
  };
  const auto take = [&](int64_t turn) {
    for_rows(turn, call.count, [&](int64_t row) {
      const uint32_t ranks = ranks_of(call, me, row);
      for (int64_t begin = threadIdx.x % 32; begin < call.words; begin += 32 * kSums) {
        A sums[kSums][kNumbers] = {};
        for (uint32_t left = ranks; left != 0; left &= left - 1) {
          const int rank = __ffs(left) - 1;
          const int64_t place = rank * call.most + row;
          const uint4* from = rank == me ? made + place * call.words : window_row(call, me, place);
          uint4 values[kSums];
#pragma unroll
          for (int i = 0; i < kSums; ++i) {
            if (begin + 32 * i < call.words) values[i] = from[begin + 32 * i];
          }
#pragma unroll
          for (int i = 0; i < kSums; ++i) {
            const auto& term = reinterpret_cast<const cuda::Pack<T, kNumbers>&>(values[i]);
            for (int n = 0; n < kNumbers; ++n) sums[i][n] += cuda::load(term.values[n]);
          }
        }
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
          cuda::Pack<T, kNumbers> sum;
          for (int n = 0; n < kNumbers; ++n) cuda::store(&sum.values[n], sums[i][n]);
          if (begin + 32 * i < call.words) {
            static_cast<uint4*>(call.output)[row * call.words + begin + 32 * i] = reinterpret_cast<const uint4&>(sum);
          }
        }
      }
    });
  };
  in_turns(call, send, take);
}

/// Each rank's rows into the next rank's part, where nobody takes them.
__global__ void __launch_bounds__(kWarps * 32, 1) fill_rows(const __grid_constant__ Call call) {
  const int next = (call.group.lsaRank + 1) % call.group.lsaSize;
  const auto send = [&](int64_t turn) {
    for_rows(turn, call.count, [&](int64_t row) {
      uint4* to = window_row(call, next, row);
      copy_row(static_cast<const uint4*>(call.rows) + row * call.words, call.words,
               [&](int64_t word, const uint4& value) { to[word] = value; });
    });
  };
  in_turns(call, send, [](int64_t) {});
}

class NcclDirectExchange final : public DirectExchange {
 public:
  NcclDirectExchange(ncclComm_t communicator, const HostCommunicator& host, const ProgressCounter& progress)
      : DirectExchange(progress), communicator_(communicator), host_(host) {}

  ~NcclDirectExchange() override {
    // Both wait for the peers, who may be gone when an exception brought us here; then the process ends, and frees everything.
    if (std::uncaught_exceptions() > 0) return;
    release();
    if (has_group_) ncclDevCommDestroy(communicator_, &group_);
  }

  NcclDirectExchange(const NcclDirectExchange&) = delete;
  NcclDirectExchange& operator=(const NcclDirectExchange&) = delete;

  /// @throws CommError, on every rank alike, where it cannot
  void begin() {
    ncclDevCommRequirements needs{};
    needs.lsaBarrierCount = kBlocks;
    const ncclResult_t result = ncclDevCommCreate(communicator_, &needs, &group_);
    has_group_ = result == ncclSuccess;
    agree("ncclDevCommCreate", result);
    reserve(kFirstBytes);  // whether there can be a window is found out here, where there is another way
  }

 private:
  void do_spread(const at::Tensor& rows, const at::Tensor& wanted, at::Tensor& arrived) override {
    const c10::DeviceGuard guard(rows.device());
    const Call call = call_of(rows, wanted, rows.size(0), arrived);
    spread_rows<<<kBlocks, kWarps * 32, 0, c10::cuda::getCurrentCUDAStream()>>>(call);
    cuda::check_launch("direct_spread");
  }

  void do_sum_back(const at::Tensor& rows, const at::Tensor& wanted, at::Tensor& sums) override {
    const c10::DeviceGuard guard(rows.device());
    const Call call = call_of(rows, wanted, sums.size(0), sums);
    const auto kernel = [&] {
      switch (rows.scalar_type()) {
        case at::kBFloat16: return sum_rows<__nv_bfloat16>;
        case at::kHalf: return sum_rows<__half>;
        case at::kFloat: return sum_rows<float>;
        case at::kDouble: return sum_rows<double>;
        default: throw ShapeError(concat("dtype ", c10::toString(rows.scalar_type()), " is not summed"));
      }
    }();
    kernel<<<kBlocks, kWarps * 32, 0, c10::cuda::getCurrentCUDAStream()>>>(call);
    cuda::check_launch("direct_sum");
  }

  void do_fill_next(const at::Tensor& rows) override {
    const c10::DeviceGuard guard(rows.device());
    at::Tensor none;
    const Call call = call_of(rows, at::empty({1, rows.size(0), 0}, rows.options().dtype(at::kInt)), rows.size(0), none);
    fill_rows<<<kBlocks, kWarps * 32, 0, c10::cuda::getCurrentCUDAStream()>>>(call);
    cuda::check_launch("direct_fill");
  }

  Call call_of(const at::Tensor& rows, const at::Tensor& wanted, int64_t count, at::Tensor& output) {
    const int64_t row_bytes = rows.size(1) * static_cast<int64_t>(rows.element_size());
    reserve(static_cast<size_t>(wanted.size(0) * wanted.size(1) * row_bytes));
    return {.group = group_,
            .window = window_,
            .wanted = wanted.const_data_ptr<int32_t>(),
            .most = wanted.size(1),
            .choices = wanted.size(2),
            .count = count,
            .words = row_bytes / kDirectRowBytes,
            .rows = rows.const_data_ptr(),
            .output = output.defined() ? output.mutable_data_ptr() : nullptr};
  }

  /// All ranks ask for the same, so that all grow at the same call.
  void reserve(size_t bytes) {
    if (bytes <= bytes_) return;
    // What runs may still use the window; and the others' kernels may write into it until they have met ours.
    C10_CUDA_CHECK(cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream()));
    release();
    agree("ncclMemAlloc", ncclMemAlloc(&memory_, bytes));
    const ncclResult_t result = ncclCommWindowRegister(communicator_, memory_, bytes, &window_, NCCL_WIN_COLL_SYMMETRIC);
    agree("ncclCommWindowRegister", result == ncclSuccess && window_ == nullptr ? ncclInvalidUsage : result);
    bytes_ = bytes;
  }

  void agree(const char* what, ncclResult_t result) const {
    const std::string agreed = host_.agree(result == ncclSuccess ? "" : concat(what, ": ", ncclGetErrorString(result)));
    if (!agreed.empty()) throw CommError(concat("memory that all of ", host_.name(), " reach: ", agreed));
  }

  void release() {
    if (window_ != nullptr) ncclCommWindowDeregister(communicator_, window_);
    if (memory_ != nullptr) ncclMemFree(memory_);
    window_ = nullptr;
    memory_ = nullptr;
    bytes_ = 0;
  }

  ncclComm_t communicator_;
  const HostCommunicator& host_;
  ncclDevComm group_{};
  bool has_group_ = false;
  ncclWindow_t window_ = nullptr;
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<DirectExchange> make_nccl_direct_exchange(ncclComm* communicator, const HostCommunicator& host,
                                                          const ProgressCounter& progress) {
  const bool reach_each_other = host.size() <= kDirectRanks && ncclTeamLsa(communicator).nRanks == host.size();
  if (!host.agree(reach_each_other ? "" : "does not reach all").empty()) return nullptr;
  auto exchange = std::make_unique<NcclDirectExchange>(communicator, host, progress);
  try {
    exchange->begin();
  } catch (const CommError&) {
    return nullptr;
  }
  return exchange;
}

}  // namespace pimoe
