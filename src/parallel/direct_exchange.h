#pragma once

#include "base/progress.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace pimoe {

/// Ranks whose memory others of a group can reach are told apart by the bits of a word.
constexpr int kDirectRanks = 32;

/// Rows that the ranks of a group leave in memory which the others reach by loads and stores: of GPUs over NVLink (NCCL's device API), of
/// processes of one node in shared memory. No counts travel: a row's place follows from whose it is.
///
/// P ranks have at most M rows each. `wanted` [P, M, K] int32, contiguous, on the rows' device and the same on every rank, says which ranks row m
/// of rank s is for: -1 is none, and one that stands there twice counts once.
///
/// REQUIRES: every rank makes the same calls in the same order, with the same M, K, D and dtype, whether it has rows or not. No autograd.
/// @throws CommError if memory for M rows of each rank cannot be had, or a peer is gone; ShapeError for rows, ranks or widths that do not fit
class DirectExchange {
 public:
  virtual ~DirectExchange() = default;

  /// Each row to the ranks that want it.
  /// @param rows  [T, D] contiguous, T <= M, D in bytes a multiple of kDirectRowBytes
  /// @returns [P M, D]: row s M + m is row m of rank s where that is for this rank; what is in the others nobody has written
  /// @cost one pass over the rows that arrive beside their way over the link; no host synchronisation on a GPU
  at::Tensor spread(const at::Tensor& rows, const at::Tensor& wanted);

  /// The way back, and spread's gradient: each rank made one row of each that it got.
  /// @param rows   [P M, D] contiguous: at s M + m what this rank made of row m of rank s
  /// @param count  T
  /// @returns [T, D]: of each of this rank's rows the sum over the ranks that it was for, at least in float32, in the order of ranks; 0 for none
  at::Tensor sum_back(const at::Tensor& rows, const at::Tensor& wanted, int64_t count);

  /// The speed of the way alone, for benchmarks: each rank's rows into the memory of the next rank, where nobody takes them.
  /// @param rows  [T, D] contiguous, T and D the same on every rank
  void fill_next(const at::Tensor& rows);

 protected:
  explicit DirectExchange(const ProgressCounter& progress) : progress_(progress) {}

 private:
  virtual void do_spread(const at::Tensor& rows, const at::Tensor& wanted, at::Tensor& arrived) = 0;
  virtual void do_fill_next(const at::Tensor& rows) = 0;
  virtual void do_sum_back(const at::Tensor& rows, const at::Tensor& wanted, at::Tensor& sums) = 0;

  const ProgressCounter& progress_;  ///< of the group's communicator
};

/// What a row's bytes must be a multiple of.
constexpr int64_t kDirectRowBytes = 16;

}  // namespace pimoe
