#include "parallel/mpi_messages.h"

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"
#include "parallel/mpi_errors.h"

#include <mpi.h>

#include <algorithm>
#include <cstring>

namespace pimoe {
namespace {

constexpr int kTag = 1;

}  // namespace

MpiMessages::MpiMessages(ompi_communicator_t* communicator, const std::string& group, int64_t message_bytes)
    : communicator_(communicator), message_bytes_(message_bytes) {
  MPI_Comm_rank(communicator_, &rank_);
  MPI_Comm_size(communicator_, &size_);
  name_ = concat(group, " group of ", size_);
}

std::string MpiMessages::where(const char* collective) const { return concat(collective, " in ", name_, ", rank ", rank_); }

void MpiMessages::check(int code, const char* collective) const {
  if (code != MPI_SUCCESS) throw CommError(concat(where(collective), ": ", mpi_error_text(code)));
}

void MpiMessages::gather(char* gathered, char* shard, int64_t bytes) const {
  if (bytes * size_ > message_bytes_) {  // MPI_Allgather's counts, and its algorithms' sums of them, are ints
    std::vector<MessageSpan> receives;
    for (int peer = 0; peer < size_; ++peer) receives.push_back({gathered + peer * bytes, bytes});
    exchange("all_gather", std::vector<MessageSpan>(static_cast<size_t>(size_), MessageSpan{shard, bytes}), receives);
    return;
  }
  const bool in_place = shard == gathered + rank_ * bytes;
  const auto count = static_cast<int>(bytes);
  check(MPI_Allgather(in_place ? MPI_IN_PLACE : shard, count, MPI_BYTE, gathered, count, MPI_BYTE, communicator_), "all_gather");
}

void MpiMessages::exchange(const char* collective, const std::vector<MessageSpan>& sends, const std::vector<MessageSpan>& receives) const {
  std::vector<MPI_Request> requests;
  std::vector<std::pair<int, int>> expected;  // of each receive: peer, bytes
  const auto cut = [this](MessageSpan span, const auto& post) {
    do {
      const auto count = static_cast<int>(std::min(span.bytes, message_bytes_));
      post(span.data, count);
      span = {span.data + count, span.bytes - count};
    } while (span.bytes > 0);
  };
  for (int step = 1; step < size_; ++step) {
    const int peer = (rank_ - step + size_) % size_;
    cut(receives[static_cast<size_t>(peer)], [&](char* data, int count) {
      expected.emplace_back(peer, count);
      check(MPI_Irecv(data, count, MPI_BYTE, peer, kTag, communicator_, &requests.emplace_back()), collective);
    });
  }
  for (int step = 1; step < size_; ++step) {
    const int peer = (rank_ + step) % size_;
    cut(sends[static_cast<size_t>(peer)], [&](char* data, int count) {
      check(MPI_Isend(data, count, MPI_BYTE, peer, kTag, communicator_, &requests.emplace_back()), collective);
    });
  }
  const MessageSpan& from = sends[static_cast<size_t>(rank_)];
  const MessageSpan& to = receives[static_cast<size_t>(rank_)];
  if (from.bytes > 0 && from.data != to.data) std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes));
  wait_for(collective, requests, expected);
}

void MpiMessages::wait_for(const char* collective, std::vector<MPI_Request>& requests,
                           const std::vector<std::pair<int, int>>& expected) const {
  std::string trouble;
  for (size_t index = 0; index < requests.size(); ++index) {
    MPI_Status status{};
    const int code = MPI_Wait(&requests[index], &status);
    progress_tick();
    if (!trouble.empty()) continue;
    if (index >= expected.size()) {
      if (code != MPI_SUCCESS) trouble = mpi_error_text(code);
      continue;
    }
    const auto [peer, bytes] = expected[index];
    int count = 0;
    if (code == MPI_SUCCESS) MPI_Get_count(&status, MPI_BYTE, &count);
    if (code != MPI_SUCCESS) {
      trouble = concat("receiving ", bytes, " bytes from rank ", peer, ": ", mpi_error_text(code));
    } else if (count != bytes) {
      trouble = concat("rank ", peer, " sent ", count, " bytes where ", bytes, " were expected");
    }
  }
  if (!trouble.empty()) throw CommError(concat(where(collective), ": ", trouble));
}

}  // namespace pimoe
