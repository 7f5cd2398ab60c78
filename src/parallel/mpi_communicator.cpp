#include "parallel/mpi_communicator.h"

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"
#include "parallel/communicator_checks.h"
#include "parallel/mpi_direct_exchange.h"
#include "parallel/mpi_messages.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <optional>
#include <thread>

namespace pimoe {
namespace {

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
      : communicator_(communicator), messages_(communicator, name, message_bytes), rank_(messages_.rank()), size_(messages_.size()) {
    MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);
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
  const std::string& name() const override { return messages_.name(); }

  std::unique_ptr<Communicator> split(int color, int key, const std::string& name) const override { return split_host(color, key, name); }

  std::unique_ptr<HostCommunicator> split_host(int color, int key, const std::string& name) const override {
    const ProgressCollective mark("split", progress_);
    MPI_Comm part = MPI_COMM_NULL;
    messages_.check(MPI_Comm_split(communicator_, color, key, &part), "split");
    return std::make_unique<MpiCommunicator>(part, name, messages_.message_bytes());
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
    for (int64_t begin = 0; begin < total; begin += messages_.message_bytes()) {
      const auto count = static_cast<int>(std::min(messages_.message_bytes(), total - begin));
      messages_.check(MPI_Bcast(bytes_of(host) + begin, count, MPI_BYTE, root, communicator_), "broadcast");
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
    messages_.gather(bytes_of(host), bytes_of(host_shard), static_cast<int64_t>(host_shard.nbytes()));
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
    messages_.exchange("all_to_all", spans(from, send_rows), spans(to, recv_rows));
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
    messages_.check(MPI_Barrier(communicator_), "barrier");
  }

  void patient_barrier() const override {
    if (size_ == 1) return;
    const ProgressCollective mark("patient_barrier", progress_);
    MPI_Request request = MPI_REQUEST_NULL;
    messages_.check(MPI_Ibarrier(communicator_, &request), "patient_barrier");
    auto nap = std::chrono::microseconds(50);
    while (true) {
      int done = 0;
      messages_.check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "patient_barrier");
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
    messages_.check(MPI_Allgather(&length, 1, MPI_INT64_T, lengths.data(), 1, MPI_INT64_T, communicator_), "all_gather_text");
    std::vector<std::string> texts(ranks);
    if (std::accumulate(lengths.begin(), lengths.end(), int64_t{0}) <= messages_.message_bytes()) {
      gather_short_texts(text, lengths, texts);
      return texts;
    }
    std::vector<MessageSpan> sends(ranks, MessageSpan{const_cast<char*>(text.data()), length});  // MPI_Isend reads only
    std::vector<MessageSpan> receives(ranks);
    for (size_t peer = 0; peer < ranks; ++peer) {
      texts[peer].resize(static_cast<size_t>(lengths[peer]));
      receives[peer] = {texts[peer].data(), lengths[peer]};
    }
    messages_.exchange("all_gather_text", sends, receives);
    return texts;
  }

  std::string broadcast_text(const std::string& text, int root) const override {
    if (size_ == 1) return text;
    const ProgressCollective mark("broadcast_text", progress_);
    auto length = static_cast<int64_t>(text.size());
    messages_.check(MPI_Bcast(&length, 1, MPI_INT64_T, root, communicator_), "broadcast_text");
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

  static void copy_unless_same(at::Tensor& to, const at::Tensor& from) {
    if (to.data_ptr() != from.data_ptr()) to.view(-1).copy_(from.view(-1));
  }

  static std::vector<MessageSpan> spans(const at::Tensor& rows, const std::vector<int64_t>& counts) {
    std::vector<MessageSpan> result;
    char* data = bytes_of(rows);
    for (const int64_t count : counts) {
      result.push_back({data, count * row_bytes(rows)});
      data += result.back().bytes;
    }
    return result;
  }

  /// By MPI's own gather: a set-up that greeted every rank by itself would send, and connect, as the square of their number.
  /// @param lengths  of every rank's text; together no longer than a message
  void gather_short_texts(const std::string& text, const std::vector<int64_t>& lengths, std::vector<std::string>& texts) const {
    const std::vector<int> counts(lengths.begin(), lengths.end());
    std::vector<int> begins(counts.size());
    std::exclusive_scan(counts.begin(), counts.end(), begins.begin(), 0);
    std::string all(static_cast<size_t>(begins.back() + counts.back()), '\0');
    messages_.check(MPI_Allgatherv(text.data(), static_cast<int>(text.size()), MPI_BYTE, all.data(), counts.data(), begins.data(), MPI_BYTE,
                                   communicator_),
                    "all_gather_text");
    for (size_t peer = 0; peer < texts.size(); ++peer) {
      texts[peer] = all.substr(static_cast<size_t>(begins[peer]), static_cast<size_t>(counts[peer]));
    }
  }

  void reduce_small(at::Tensor& flat, ReduceOp op) const {
    const at::Tensor terms = at::empty({size_, flat.numel()}, flat.options());
    messages_.gather(bytes_of(terms), bytes_of(flat), static_cast<int64_t>(flat.nbytes()));
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
      const MessageSpan summed{bytes_of(own), static_cast<int64_t>(own.nbytes())};
      messages_.exchange("all_reduce", std::vector<MessageSpan>(parts.size(), summed), spans(flat.narrow(0, begin, count), lengths));
    }
  }

  /// @param parts  part r goes to rank r; they may differ in length
  /// @returns every rank's part for this one, combined in rank order; a view of the scratch.
  at::Tensor sum_parts(const std::vector<at::Tensor>& parts, Scratch& scratch, ReduceOp op, const char* collective) const {
    const at::Tensor& own = parts[static_cast<size_t>(rank_)];
    std::vector<at::Tensor> terms;
    std::vector<MessageSpan> sends;
    std::vector<MessageSpan> receives;
    for (int peer = 0; peer < size_; ++peer) {
      const at::Tensor& part = parts[static_cast<size_t>(peer)];
      terms.push_back(scratch.received[peer].narrow(0, 0, own.numel()));
      sends.push_back({bytes_of(part), static_cast<int64_t>(part.nbytes())});
      receives.push_back({bytes_of(terms.back()), static_cast<int64_t>(own.nbytes())});
    }
    messages_.exchange(collective, sends, receives);
    for (int peer = 1; peer < size_; ++peer) combine(terms[0], terms[static_cast<size_t>(peer)], op);
    return terms[0];
  }

  MPI_Comm communicator_;
  MpiMessages messages_;
  int rank_;
  int size_;
  ProgressCounter progress_;
  mutable std::optional<std::unique_ptr<DirectExchange>> direct_;  ///< empty: nobody has asked yet
};

}  // namespace

std::unique_ptr<HostCommunicator> make_mpi_communicator(ompi_communicator_t* communicator, const std::string& name, int64_t message_bytes) {
  return std::make_unique<MpiCommunicator>(communicator, name, message_bytes);
}

}  // namespace pimoe
