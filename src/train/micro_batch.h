#pragma once

/// `train.micro_batch: auto`: as many sequences at a time as memory has room for.

#include "train/forecast.h"

#include <cstdint>

namespace pimoe {

/// What a GPU needs beside tensors, an allowance: context, kernels of the libraries, NCCL's channels, and what the allocator cannot use of what it
/// holds.
constexpr int64_t kGpuOverheadBytes = int64_t{2} << 30;
/// The same of a CPU: libtorch's and the program's pages and oneDNN's kernels, and a share of the tensors for what malloc cannot use between blocks;
/// chosen by ten small models (docs/check.md). Of what is free as a run begins the first is gone already: run_setup.cpp leaves a tenth in its place.
constexpr int64_t kCpuOverheadBytes = int64_t{165} * 1'000'000;
constexpr double kCpuOverheadShare = 0.12;
/// @param memory  tensors of a rank  @returns what is beside them
inline int64_t overhead_bytes(const MemoryForecast& memory, bool on_gpu) {
  if (on_gpu) return kGpuOverheadBytes;
  return kCpuOverheadBytes + static_cast<int64_t>(kCpuOverheadShare * static_cast<double>(memory.state() + memory.activations.peak()));
}
/// @returns the most that a rank takes of its device, what is beside tensors included
inline int64_t device_bytes(const MemoryForecast& memory, bool on_gpu) { return memory.peak(on_gpu) + overhead_bytes(memory, on_gpu); }
/// @returns how many bytes of tensors there is room for in `limit` bytes
inline int64_t room_for_tensors_on_cpu(int64_t limit) {
  return static_cast<int64_t>(static_cast<double>(limit - kCpuOverheadBytes) / (1.0 + kCpuOverheadShare));
}

/// What `train.micro_batch: auto` becomes: the most sequences at a time with which the forecast of the fullest rank stays below the limit whatever
/// the router does, in as few micro-steps as they come to; at least 1, also where not even that fits.
/// @param limit_bytes  of a rank; 0: none, and a rank computes its whole share at a time
/// @cost a forecast for each number of micro-steps that does not fit
int64_t largest_micro_batch(const TrainConfig& config, const ForecastPlace& place, int64_t limit_bytes);

}  // namespace pimoe
