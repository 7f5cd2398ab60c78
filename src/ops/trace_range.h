#pragma once

#include "base/progress.h"

#include <ATen/record_function.h>

namespace pimoe {

/// A named stretch of work, for those who look at time: libtorch's profiler (`train --profile`, train/step_profile.h) and, in CUDA builds, NVTX
/// (nsys). Backward needs no ranges of its own: what a range's operations do there is found by autograd's sequence numbers.
/// @cost some tens of nanoseconds while nobody looks
class TraceRange {
 public:
  /// @param name  outlives the range
  explicit TraceRange(const char* name);
  ~TraceRange();
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;

 private:
  at::RecordFunction record_;
};

/// A part of a step for both who watch: the watchdog (base/progress.h) and profilers.
class TracedPhase {
 public:
  /// @param name  a literal of at most 15 characters
  explicit TracedPhase(const char* name) : phase_(name), range_(name) {}

 private:
  ProgressPhase phase_;
  TraceRange range_;
};

}  // namespace pimoe
