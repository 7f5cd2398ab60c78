#include "parallel/mpi_direct_exchange.h"

#include "parallel/mpi_errors.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

namespace pimoe {
namespace {

/// Each rank leaves its rows in its own part of the shared memory, and the others fetch from there.
class MpiDirectExchange final : public DirectExchange {
 public:
  MpiDirectExchange(MPI_Comm ranks, const ProgressCounter& progress) : DirectExchange(progress), ranks_(ranks) {
    MPI_Comm_rank(ranks_, &rank_);
    MPI_Comm_size(ranks_, &size_);
  }

  ~MpiDirectExchange() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    // Freeing is collective, and peers may be gone when an exception brought us here.
    if (finalized != 0 || std::uncaught_exceptions() > 0) return;
    release();
    MPI_Comm_free(&ranks_);
  }

  MpiDirectExchange(const MpiDirectExchange&) = delete;
  MpiDirectExchange& operator=(const MpiDirectExchange&) = delete;

 private:
  void do_spread(const at::Tensor& rows, const at::Tensor& wanted, at::Tensor& arrived) override {
    const Call call(rows, wanted);
    reserve(call.most * call.row_bytes);
    meet();  // nobody reads what was left there before
    std::memcpy(parts_[rank_], rows.const_data_ptr(), static_cast<size_t>(rows.size(0) * call.row_bytes));
    meet();
    char* to = static_cast<char*>(arrived.mutable_data_ptr());
    for (int rank = 0; rank < size_; ++rank) {
      for (int64_t row = 0; row < call.most; ++row) {
        if (!call.is_for(rank, row, rank_)) continue;
        std::memcpy(to + (rank * call.most + row) * call.row_bytes, parts_[rank] + row * call.row_bytes,
                    static_cast<size_t>(call.row_bytes));
      }
    }
  }

  void do_sum_back(const at::Tensor& rows, const at::Tensor& wanted, at::Tensor& sums) override {
    const Call call(rows, wanted);
    reserve(size_ * call.most * call.row_bytes);
    meet();
    std::memcpy(parts_[rank_], rows.const_data_ptr(), static_cast<size_t>(size_ * call.most * call.row_bytes));
    meet();
    const at::NoGradGuard no_gradients;
    at::Tensor wide = at::zeros(sums.sizes(), sums.options().dtype(at_least_float32(rows.scalar_type())));
    const at::Tensor own = wanted.select(0, rank_).narrow(0, 0, sums.size(0));
    for (int rank = 0; rank < size_; ++rank) {
      const at::Tensor was_there = (own == rank).any(1).nonzero().view({-1});
      const at::Tensor made = at::from_blob(parts_[rank] + rank_ * call.most * call.row_bytes, sums.sizes(), sums.options());
      wide.index_add_(0, was_there, made.index_select(0, was_there).to(wide.scalar_type()));
    }
    sums.copy_(wide);
  }

  void do_fill_next(const at::Tensor& rows) override {
    reserve(static_cast<int64_t>(rows.nbytes()));
    meet();
    std::memcpy(parts_[static_cast<size_t>((rank_ + 1) % size_)], rows.const_data_ptr(), rows.nbytes());
    meet();
  }

  struct Call {
    Call(const at::Tensor& rows, const at::Tensor& wanted_ranks)
        : wanted(wanted_ranks.const_data_ptr<int32_t>()),
          most(wanted_ranks.size(1)),
          choices(wanted_ranks.size(2)),
          row_bytes(rows.size(1) * static_cast<int64_t>(rows.element_size())) {}

    bool is_for(int64_t source, int64_t row, int32_t rank) const {
      const int32_t* begin = wanted + (source * most + row) * choices;
      return std::find(begin, begin + choices, rank) != begin + choices;
    }

    const int32_t* wanted;
    int64_t most, choices, row_bytes;
  };

  /// All ranks ask for the same, so that all grow at the same call.
  void reserve(int64_t bytes) {
    if (bytes <= bytes_) return;
    release();
    char* own = nullptr;
    check_mpi(MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, ranks_, &own, &window_), "MPI_Win_allocate_shared");
    check_mpi(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_), "MPI_Win_lock_all");
    parts_.resize(static_cast<size_t>(size_));
    for (int rank = 0; rank < size_; ++rank) {
      MPI_Aint size = 0;
      int unit = 0;
      check_mpi(MPI_Win_shared_query(window_, rank, &size, &unit, &parts_[static_cast<size_t>(rank)]), "MPI_Win_shared_query");
    }
    bytes_ = bytes;
  }

  void release() {
    if (window_ == MPI_WIN_NULL) return;
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
    bytes_ = 0;
  }

  void meet() const {
    check_mpi(MPI_Win_sync(window_), "MPI_Win_sync");
    check_mpi(MPI_Barrier(ranks_), "MPI_Barrier");
    check_mpi(MPI_Win_sync(window_), "MPI_Win_sync");
  }

  MPI_Comm ranks_;  ///< owned
  int rank_ = 0;
  int size_ = 1;
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<char*> parts_;  ///< of each rank, in this process' addresses
  int64_t bytes_ = 0;         ///< of a part
};

}  // namespace

std::unique_ptr<DirectExchange> make_mpi_direct_exchange(ompi_communicator_t* communicator, const HostCommunicator& host,
                                                         const ProgressCounter& progress) {
  MPI_Comm here = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, host.rank(), MPI_INFO_NULL, &here), "MPI_Comm_split_type");
  int size = 0;
  MPI_Comm_size(here, &size);
  if (!host.agree(size == host.size() && size <= kDirectRanks ? "" : "does not reach all").empty()) {
    MPI_Comm_free(&here);
    return nullptr;
  }
  return std::make_unique<MpiDirectExchange>(here, progress);
}

}  // namespace pimoe
