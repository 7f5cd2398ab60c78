#pragma once

/// `train.micro_batch: auto`: as many sequences at a time as memory has room for.

#include "train/forecast.h"

#include <cstdint>

namespace pimoe {

/// What a GPU needs beside tensors, an allowance: context, kernels of the libraries, NCCL's channels, and what the allocator cannot use of what it
/// holds.
constexpr int64_t kGpuOverheadBytes = int64_t{2} << 30;
/// The same of a CPU: libtorch's and the program's pages, oneDNN's kernels and libtorch's tables; a share of the tensors; and a share of what the
/// cross-entropy takes for a moment, which is in nobody's way again only where a block's backward needs twice as much in its place. Chosen by
/// 23 small models (docs/check.md).
constexpr int64_t kCpuOverheadBytes = int64_t{170} * 1'000'000;
constexpr double kCpuOverheadShare = 0.02;
constexpr double kCpuLossShare = 0.75;
/// @param memory  tensors of a rank  @returns what is beside them
int64_t overhead_bytes(const MemoryForecast& memory, bool on_gpu);
/// @returns the most that a rank takes of its device, what is beside tensors included
inline int64_t device_bytes(const MemoryForecast& memory, bool on_gpu) { return memory.peak(on_gpu) + overhead_bytes(memory, on_gpu); }

/// What `train.micro_batch: auto` becomes: the most sequences at a time with which the forecast of the fullest rank stays below the limit whatever
/// the router does, in as few micro-steps as they come to; at least 1, also where not even that fits.
/// @param limit_bytes  of a rank, for tensors and what is beside them; 0: none, and a rank computes its whole share at a time
/// @cost a forecast for each number of micro-steps that does not fit
int64_t largest_micro_batch(const TrainConfig& config, const ForecastPlace& place, int64_t limit_bytes);

}  // namespace pimoe
