#pragma once

/// `train.micro_batch: auto`: as many sequences at a time as memory has room for.

#include "train/forecast.h"

#include <cstdint>

namespace pimoe {

/// What a GPU needs beside tensors, an allowance: context, kernels of the libraries, NCCL's channels, and what the allocator cannot use of what it
/// holds.
constexpr int64_t kGpuOverheadBytes = int64_t{2} << 30;
/// The same of a CPU: libtorch's and the program's pages (0.16 GB), oneDNN's kernels, and what malloc cannot use between blocks, chosen by three
/// small models (docs/check.md). Of what is free as a run begins the first is gone already: run_setup.cpp leaves a tenth in its place.
constexpr int64_t kCpuOverheadBytes = int64_t{350} * 1'000'000;

/// What `train.micro_batch: auto` becomes: the most sequences at a time with which the forecast of the fullest rank stays below the limit whatever
/// the router does, in as few micro-steps as they come to; at least 1, also where not even that fits.
/// @param limit_bytes  of a rank; 0: none, and a rank computes its whole share at a time
/// @cost a forecast for each number of micro-steps that does not fit
int64_t largest_micro_batch(const TrainConfig& config, const ForecastPlace& place, int64_t limit_bytes);

}  // namespace pimoe
