#pragma once

#include "parallel/direct_exchange.h"

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

enum class ReduceOp { kSum, kMax, kMin };

/// A group of ranks and its collectives on tensors. Two builds: MpiCommunicator (host tensors; stages device tensors through the host)
/// and NcclCommunicator (device tensors, on the current CUDA stream).
///
/// REQUIRES: every rank of the group makes the same calls in the same order, with tensors of equal dtype (and, but for all_to_all and
/// all_gather_text, equal shape). Tensors are contiguous. Calls on one communicator come from one thread at a time.
/// A group of one is valid everywhere and communicates nothing.
/// @throws CommError if a peer left or the library failed; the message names the collective, the group and the rank. The group is of
///         no use after it.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// "expert group of 4": for messages.
  virtual const std::string& name() const = 0;

  /// Ranks that give the same `color` form a group, ordered by (key, rank here). Collective over this group.
  virtual std::unique_ptr<Communicator> split(int color, int key, const std::string& name) const = 0;

  /// In place; dtypes: float32, float64, int64, int32 (half precisions are never summed: reductions are at least float32).
  virtual void all_reduce(at::Tensor& tensor, ReduceOp op = ReduceOp::kSum) const = 0;
  /// In place, from `root`; any dtype.
  virtual void broadcast(at::Tensor& tensor, int root) const = 0;
  /// `gathered` [size * n] from each rank's `shard` [n], in rank order; any dtype. `shard` may be this rank's part of `gathered` itself.
  virtual void all_gather(at::Tensor& gathered, const at::Tensor& shard) const = 0;
  /// `shard` [n] = this rank's part of the sum of every rank's `full` [size * n]. `shard` may be this rank's part of `full` itself;
  /// what the rest of `full` then holds is unspecified. dtypes as all_reduce.
  virtual void reduce_scatter(at::Tensor& shard, const at::Tensor& full) const = 0;

  /// Sends rows of `rows` [N, ...] (first send_rows[0] rows to rank 0, and so on) and receives recv_rows[r] rows from each rank r.
  /// @param send_rows, recv_rows  [size] each; zeros are ordinary. recv_rows must be what the peers send: exchange counts first.
  /// @returns [sum recv_rows, ...], rank 0's rows first. Any dtype. No autograd.
  ///          A group of one returns a view of `rows` itself.
  /// @cost one collective; no host synchronisation with NCCL, one each way for device tensors with MPI.
  virtual at::Tensor all_to_all(const at::Tensor& rows, const std::vector<int64_t>& send_rows,
                                const std::vector<int64_t>& recv_rows) const = 0;

  /// @returns rows written straight into other ranks' memory, made at the first call and owned by the communicator; nullptr where not all
  ///          reach each other's memory on devices like `device`. The same on every rank. Collective
  virtual DirectExchange* direct_exchange(c10::Device /*device*/) const { return nullptr; }
  /// What travelled past the collectives: to be counted with the rest.
  void count_direct(int64_t bytes) const { count(bytes, size() - 1); }

  /// Returns once every rank has entered; with NCCL also once the stream's work is done.
  virtual void barrier() const = 0;

  /// Bytes that this rank has sent to others through this communicator so far, text left out; reductions, gathers and broadcasts as a ring sends
  /// them.
  int64_t sent_bytes() const { return sent_bytes_.load(std::memory_order_relaxed); }
  /// Messages in which they travelled: of rows one to each other rank, of the rest as many as a ring needs. A library may cut a large one into several.
  int64_t sent_messages() const { return sent_messages_.load(std::memory_order_relaxed); }
  /// Calls that sent them.
  int64_t collectives() const { return collectives_.load(std::memory_order_relaxed); }

 protected:
  /// For every collective of tensors, where it begins.
  void count_rows(const at::Tensor& rows, const std::vector<int64_t>& send_rows) const;
  /// @param passes  how often a ring carries the whole around: 1 for a gather or a scattered sum, 2 for a sum on every rank
  void count_ring(const at::Tensor& whole, int passes) const;

 private:
  void count(int64_t bytes, int64_t messages) const;

  mutable std::atomic<int64_t> sent_bytes_ = 0;
  mutable std::atomic<int64_t> sent_messages_ = 0;
  mutable std::atomic<int64_t> collectives_ = 0;
};

/// The control plane: MPI over the host, for agreement and text. Also a full Communicator.
class HostCommunicator : public Communicator {
 public:
  virtual std::unique_ptr<HostCommunicator> split_host(int color, int key, const std::string& name) const = 0;
  /// @returns every rank's text, in rank order, on every rank.
  virtual std::vector<std::string> all_gather_text(const std::string& text) const = 0;
  /// @returns `root`'s text on every rank.
  virtual std::string broadcast_text(const std::string& text, int root) const = 0;

  /// As barrier(), but a rank that waits for long sleeps and leaves its core to others: for threads beside training.
  virtual void patient_barrier() const = 0;

  /// Every rank says whether it could do its part ("" or what went wrong). @returns "" if all could, else the lowest failing rank's text
  /// with "rank N: " before it, the same on every rank.
  std::string agree(const std::string& trouble) const;
};

}  // namespace pimoe
