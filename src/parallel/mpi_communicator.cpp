#include "parallel/mpi_communicator.h"

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"
#include "parallel/communicator_checks.h"
#include "parallel/mpi_direct_exchange.h"
#include "parallel/mpi_errors.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <thread>

namespace pimoe {
namespace {

constexpr int kTag = 1;
/// Up to here a reduction is one all-gather and a sum at every rank: one latency instead of two.
constexpr int64_t kSmallBytes = 16 << 10;
/// A larger one goes by windows in which each rank sums up one part of this size: scratch stays small, and in the cache.
constexpr int64_t kPartBytes = 1 << 20;

char* bytes_of(const at::Tensor& tensor) { return static_cast<char*>(tensor.data_ptr()); }

void combine(at::Tensor& sum, const at::Tensor& term, ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum: sum.add_(term); break;
    case ReduceOp::kMax: at::maximum_out(sum, sum, term); break;
    case ReduceOp::kMin: at::minimum_out(sum, sum, term); break;
  }
}

/// One message's memory.
struct Span {
  char* data = nullptr;
  int64_t bytes = 0;
};

/// What a watchdog has to know of a communicator's ranks.
ProgressGroup group_of(MPI_Comm communicator, const std::string& name) {
  MPI_Group world = MPI_GROUP_NULL;
  MPI_Group own = MPI_GROUP_NULL;
  int size = 0;
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  MPI_Comm_group(communicator, &own);
  MPI_Group_size(own, &size);
  std::vector<int> here(static_cast<size_t>(size));
  std::iota(here.begin(), here.end(), 0);
  std::vector<int> there(here.size());
  MPI_Group_translate_ranks(own, size, here.data(), world, there.data());
  MPI_Group_free(&own);
  MPI_Group_free(&world);
  return ProgressGroup::of(name, there);
}

/// Reductions do not use MPI's: parts travel as they are, and each is summed up by one rank in rank order. So the bits depend neither on
/// the message's size nor on the algorithm that the library would choose, they are the same on every rank, and all_reduce, reduce_scatter
/// and a loop over the ranks agree. The bytes sent are those of a ring.
class MpiCommunicator final : public HostCommunicator {
 public:
  /// Owns `communicator`.
  MpiCommunicator(MPI_Comm communicator, const std::string& name, int64_t message_bytes)
      : communicator_(communicator), message_bytes_(message_bytes) {
    MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(communicator_, &rank_);
    MPI_Comm_size(communicator_, &size_);
    name_ = concat(name, " group of ", size_);
    progress_.group = group_of(communicator_, name);
  }

  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    direct_.reset();
    if (!finalized) MPI_Comm_free(&communicator_);
  }

  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::string& name() const override { return name_; }

  std::unique_ptr<Communicator> split(int color, int key, const std::string& name) const override { return split_host(color, key, name); }

  std::unique_ptr<HostCommunicator> split_host(int color, int key, const std::string& name) const override {
    const ProgressCollective mark("split", progress_);
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(communicator_, color, key, &part), "split");
    return std::make_unique<MpiCommunicator>(part, name, message_bytes_);
  }

  void all_reduce(at::Tensor& tensor, ReduceOp op) const override {
    check_reducible(*this, "all_reduce", tensor);
    if (size_ == 1 || tensor.numel() == 0) return;
    const ProgressCollective mark("all_reduce", progress_);
    count_ring(tensor, 2);
    const at::NoGradGuard no_grad;
    at::Tensor host = tensor.cpu();  // the tensor itself if it is there already
    at::Tensor flat = host.view(-1);
    if (static_cast<int64_t>(flat.nbytes()) <= kSmallBytes) {
      reduce_small(flat, op);
    } else {
      reduce_large(flat, op);
    }
    if (!tensor.is_cpu()) tensor.copy_(host);
  }

  void reduce_scatter(at::Tensor& shard, const at::Tensor& full) const override {
    check_reducible(*this, "reduce_scatter", shard);
    check_parts(*this, "reduce_scatter", full, shard);
    const ProgressCollective mark("reduce_scatter", progress_);
    const at::NoGradGuard no_grad;
    if (size_ == 1) {
      copy_unless_same(shard, full);
      return;
    }
    count_ring(full, 1);
    const at::Tensor host_full = full.cpu().view(-1);
    at::Tensor sum = shard.is_cpu() ? shard.view(-1) : at::empty({shard.numel()}, host_full.options());
    Scratch scratch(size_, sum.numel(), sum.options());
    for (int64_t begin = 0; begin < shard.numel(); begin += scratch.part) {
      const int64_t count = std::min(scratch.part, shard.numel() - begin);
      std::vector<at::Tensor> terms;
      for (int peer = 0; peer < size_; ++peer) terms.push_back(host_full.narrow(0, peer * shard.numel() + begin, count));
      sum.narrow(0, begin, count).copy_(sum_parts(terms, scratch, ReduceOp::kSum, "reduce_scatter"));
    }
    if (!shard.is_cpu()) shard.view(-1).copy_(sum);
  }

  void broadcast(at::Tensor& tensor, int root) const override {
    check_contiguous(*this, "broadcast", tensor);
    if (size_ == 1) return;
    const ProgressCollective mark("broadcast", progress_);
    count_ring(tensor, 1);
    const at::NoGradGuard no_grad;
    at::Tensor host = tensor.cpu();
    const auto total = static_cast<int64_t>(host.nbytes());
    for (int64_t begin = 0; begin < total; begin += message_bytes_) {
      const auto count = static_cast<int>(std::min(message_bytes_, total - begin));
      check(MPI_Bcast(bytes_of(host) + begin, count, MPI_BYTE, root, communicator_), "broadcast");
    }
    if (!tensor.is_cpu() && rank_ != root) tensor.copy_(host);
  }

  void all_gather(at::Tensor& gathered, const at::Tensor& shard) const override {
    check_parts(*this, "all_gather", gathered, shard);
    const ProgressCollective mark("all_gather", progress_);
    const at::NoGradGuard no_grad;
    if (size_ == 1) {
      copy_unless_same(gathered, shard);
      return;
    }
    count_ring(gathered, 1);
    const at::Tensor host_shard = shard.cpu();
    at::Tensor host = gathered.is_cpu() ? gathered : at::empty({gathered.numel()}, host_shard.options());
    gather_bytes(bytes_of(host), bytes_of(host_shard), static_cast<int64_t>(host_shard.nbytes()));
    if (!gathered.is_cpu()) gathered.view(-1).copy_(host);
  }

  at::Tensor all_to_all(const at::Tensor& rows, const std::vector<int64_t>& send_rows,
                        const std::vector<int64_t>& recv_rows) const override {
    check_rows(*this, rows, send_rows, recv_rows);
    if (size_ == 1) return rows.detach();
    const ProgressCollective mark("all_to_all", progress_);
    count_rows(rows, send_rows);
    const at::NoGradGuard no_grad;
    const at::Tensor from = rows.cpu();
    const at::Tensor to = empty_rows(from, recv_rows);
    exchange("all_to_all", spans(from, send_rows), spans(to, recv_rows));
    return rows.is_cpu() ? to : to.to(rows.device());
  }

  DirectExchange* direct_exchange(c10::Device device) const override {
    if (size_ == 1 || !device.is_cpu()) return nullptr;
    if (!direct_) direct_ = make_mpi_direct_exchange(communicator_, *this, progress_);
    return direct_->get();
  }

  void barrier() const override {
    if (size_ == 1) return;
    const ProgressCollective mark("barrier", progress_);
    check(MPI_Barrier(communicator_), "barrier");
  }

  void patient_barrier() const override {
    if (size_ == 1) return;
    const ProgressCollective mark("patient_barrier", progress_);
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(communicator_, &request), "patient_barrier");
    auto nap = std::chrono::microseconds(50);
    while (true) {
      int done = 0;
      check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "patient_barrier");
      if (done != 0) return;
      std::this_thread::sleep_for(nap);
      nap = std::min(2 * nap, std::chrono::microseconds(5000));
    }
  }

  std::vector<std::string> all_gather_text(const std::string& text) const override {
    if (size_ == 1) return {text};
    const ProgressCollective mark("all_gather_text", progress_);
    const auto ranks = static_cast<size_t>(size_);
    const auto length = static_cast<int64_t>(text.size());
    std::vector<int64_t> lengths(ranks);
    check(MPI_Allgather(&length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, communicator_), "all_gather_text");
    std::vector<std::string> texts(ranks);
    if (std::accumulate(lengths.begin(), lengths.end(), int64_t{0}) <= message_bytes_) {
      gather_short_texts(text, lengths, texts);
      return texts;
    }
    std::vector<Span> sends(ranks, Span{const_cast<char*>(text.data()), length});  // MPI_Isend reads only
    std::vector<Span> receives(ranks);
    for (size_t peer = 0; peer < ranks; ++peer) {
      texts[peer].resize(static_cast<size_t>(lengths[peer]));
      receives[peer] = {texts[peer].data(), lengths[peer]};
    }
    exchange("all_gather_text", sends, receives);
    return texts;
  }

  std::string broadcast_text(const std::string& text, int root) const override {
    if (size_ == 1) return text;
    const ProgressCollective mark("broadcast_text", progress_);
    auto length = static_cast<int64_t>(text.size());
    check(MPI_Bcast(&length, 1, MPI_INT64_T, root, communicator_), "broadcast_text");
    at::Tensor bytes = at::empty({length}, at::kByte);
    if (rank_ == root) std::copy(text.begin(), text.end(), bytes_of(bytes));
    broadcast(bytes, root);
    return std::string(bytes_of(bytes), static_cast<size_t>(length));
  }

 private:
  /// Room for one part from every rank.
  struct Scratch {
    Scratch(int size, int64_t largest_part, const at::TensorOptions& options)
        : part(std::min(largest_part, kPartBytes / static_cast<int64_t>(options.dtype().itemsize()))),
          received(at::empty({size, part}, options)) {}
    int64_t part;  ///< elements
    at::Tensor received;
  };

  std::string where(const char* collective) const { return concat(collective, " in ", name_, ", rank ", rank_); }

  void check(int code, const char* collective) const {
    if (code != MPI_SUCCESS) throw CommError(concat(where(collective), ": ", mpi_error_text(code)));
  }

  static void copy_unless_same(at::Tensor& to, const at::Tensor& from) {
    if (to.data_ptr() != from.data_ptr()) to.view(-1).copy_(from.view(-1));
  }

  static std::vector<Span> spans(const at::Tensor& rows, const std::vector<int64_t>& counts) {
    std::vector<Span> result;
    char* data = bytes_of(rows);
    for (const int64_t count : counts) {
      result.push_back({data, count * row_bytes(rows)});
      data += result.back().bytes;
    }
    return result;
  }

  void gather_bytes(char* gathered, char* shard, int64_t bytes) const {
    if (bytes * size_ > message_bytes_) {  // MPI_Allgather's counts, and its algorithms' sums of them, are ints
      std::vector<Span> receives;
      for (int peer = 0; peer < size_; ++peer) receives.push_back({gathered + peer * bytes, bytes});
      exchange("all_gather", std::vector<Span>(static_cast<size_t>(size_), Span{shard, bytes}), receives);
      return;
    }
    const bool in_place = shard == gathered + rank_ * bytes;
    const auto count = static_cast<int>(bytes);
    check(MPI_Allgather(in_place ? MPI_IN_PLACE : shard, count, MPI_BYTE, gathered, count, MPI_BYTE, communicator_), "all_gather");
  }

  /// By MPI's own gather: a set-up that greeted every rank by itself would send, and connect, as the square of their number.
  /// @param lengths  of every rank's text; together no longer than a message
  void gather_short_texts(const std::string& text, const std::vector<int64_t>& lengths, std::vector<std::string>& texts) const {
    const std::vector<int> counts(lengths.begin(), lengths.end());
    std::vector<int> begins(counts.size());
    std::exclusive_scan(counts.begin(), counts.end(), begins.begin(), 0);
    std::string all(static_cast<size_t>(begins.back() + counts.back()), '\0');
    check(MPI_Allgatherv(text.data(), static_cast<int>(text.size()), MPI_BYTE, all.data(), counts.data(), begins.data(), MPI_BYTE,
                         communicator_),
          "all_gather_text");
    for (size_t peer = 0; peer < texts.size(); ++peer) {
      texts[peer] = all.substr(static_cast<size_t>(begins[peer]), static_cast<size_t>(counts[peer]));
    }
  }

  void reduce_small(at::Tensor& flat, ReduceOp op) const {
    const at::Tensor terms = at::empty({size_, flat.numel()}, flat.options());
    gather_bytes(bytes_of(terms), bytes_of(flat), static_cast<int64_t>(flat.nbytes()));
    flat.copy_(terms[0]);
    for (int peer = 1; peer < size_; ++peer) combine(flat, terms[peer], op);
  }

  void reduce_large(at::Tensor& flat, ReduceOp op) const {
    Scratch scratch(size_, (flat.numel() + size_ - 1) / size_, flat.options());
    const int64_t window = scratch.part * size_;
    for (int64_t begin = 0; begin < flat.numel(); begin += window) {
      const int64_t count = std::min(window, flat.numel() - begin);
      std::vector<at::Tensor> parts;
      std::vector<int64_t> lengths;
      for (int peer = 0; peer < size_; ++peer) {
        const int64_t part_begin = std::min(peer * scratch.part, count);
        lengths.push_back(std::min(scratch.part, count - part_begin));
        parts.push_back(flat.narrow(0, begin + part_begin, lengths.back()));
      }
      at::Tensor& own = parts[static_cast<size_t>(rank_)];
      own.copy_(sum_parts(parts, scratch, op, "all_reduce"));
      const Span summed{bytes_of(own), static_cast<int64_t>(own.nbytes())};
      exchange("all_reduce", std::vector<Span>(parts.size(), summed), spans(flat.narrow(0, begin, count), lengths));
    }
  }

  /// @param parts  part r goes to rank r; they may differ in length
  /// @returns every rank's part for this one, combined in rank order; a view of the scratch.
  at::Tensor sum_parts(const std::vector<at::Tensor>& parts, Scratch& scratch, ReduceOp op, const char* collective) const {
    const at::Tensor& own = parts[static_cast<size_t>(rank_)];
    std::vector<at::Tensor> terms;
    std::vector<Span> sends;
    std::vector<Span> receives;
    for (int peer = 0; peer < size_; ++peer) {
      const at::Tensor& part = parts[static_cast<size_t>(peer)];
      terms.push_back(scratch.received[peer].narrow(0, 0, own.numel()));
      sends.push_back({bytes_of(part), static_cast<int64_t>(part.nbytes())});
      receives.push_back({bytes_of(terms.back()), static_cast<int64_t>(own.nbytes())});
    }
    exchange(collective, sends, receives);
    for (int peer = 1; peer < size_; ++peer) combine(terms[0], terms[static_cast<size_t>(peer)], op);
    return terms[0];
  }

  /// Sends sends[r] to every rank r and receives receives[r] from it, all at once. At least one message travels each way between any two
  /// ranks, an empty one if need be, so that counts that disagree are an error and not a hang.
  void exchange(const char* collective, const std::vector<Span>& sends, const std::vector<Span>& receives) const {
    std::vector<MPI_Request> requests;
    std::vector<std::pair<int, int>> expected;  // of each receive: peer, bytes
    const auto cut = [this](Span span, const auto& post) {
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
    const Span& from = sends[static_cast<size_t>(rank_)];
    const Span& to = receives[static_cast<size_t>(rank_)];
    if (from.bytes > 0 && from.data != to.data) std::memcpy(to.data, from.data, static_cast<size_t>(from.bytes));
    wait_for(collective, requests, expected);
  }

  /// One by one, since Open MPI 4.1's MPI_Waitall never returns when one of several requests fails; and all of them before any failure is
  /// reported, since the buffers are the caller's.
  void wait_for(const char* collective, std::vector<MPI_Request>& requests, const std::vector<std::pair<int, int>>& expected) const {
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

  MPI_Comm communicator_;
  int64_t message_bytes_;  ///< no message is longer: MPI counts in ints
  int rank_ = 0;
  int size_ = 1;
  std::string name_;
  ProgressCounter progress_;
  mutable std::optional<std::unique_ptr<DirectExchange>> direct_;  ///< empty: nobody has asked yet
};

std::unique_ptr<HostCommunicator> duplicate(MPI_Comm communicator, const std::string& name, int64_t message_bytes) {
  MPI_Comm copy = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(communicator, &copy), "MPI_Comm_dup for " + name);
  return std::make_unique<MpiCommunicator>(copy, name, message_bytes);
}

}  // namespace

MpiSession::MpiSession(int& argc, char**& argv) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized) throw CommError("MPI is initialised already; a process has one MpiSession in its life");
  // Started alone, Open MPI forks a daemon for MPI_Comm_spawn, which nobody here calls: a third of the start-up time.
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) setenv("OMPI_MCA_ess_singleton_isolated", "1", /*overwrite=*/0);
  const auto environment = [](const char* name) { return std::getenv(name); };
  // Without PMIx, Open MPI ends the process within MPI_Init with advice about its own build: speak first.
  if (environment("PMIX_RANK") == nullptr) {
    const std::string alone = slurm_trouble(1, environment);
    if (!alone.empty()) throw UsageError(alone);
  }
  int provided = 0;
  check_mpi(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const std::string alone = slurm_trouble(size, environment);
  std::string trouble;
  if (provided < MPI_THREAD_MULTIPLE) {
    trouble = concat("MPI offers thread level ", provided, "; MPI_THREAD_MULTIPLE (", MPI_THREAD_MULTIPLE,
                     ") is needed: backward calls MPI from its own thread");
  }
  if (trouble.empty() && alone.empty()) return;
  MPI_Finalize();
  if (!alone.empty()) throw UsageError(alone);
  throw CommError(trouble);
}

MpiSession::~MpiSession() { MPI_Finalize(); }

int MpiSession::size() const {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

std::unique_ptr<HostCommunicator> MpiSession::world(int64_t message_bytes) const {
  return duplicate(MPI_COMM_WORLD, "world", message_bytes);
}

std::unique_ptr<HostCommunicator> MpiSession::self() const { return duplicate(MPI_COMM_SELF, "self", kMessageBytes); }

std::unique_ptr<HostCommunicator> MpiSession::node() const {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm here = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &here), "MPI_Comm_split_type");
  return std::make_unique<MpiCommunicator>(here, "node", kMessageBytes);
}

std::string MpiSession::library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string whole(text, static_cast<size_t>(length));
  return whole.substr(0, whole.find_first_of(",\n"));  // Open MPI goes on with who built it
}

void MpiSession::abort(int exit_code) {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized && !finalized) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace pimoe
