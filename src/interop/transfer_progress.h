#pragma once

#include "base/work_progress.h"

#include <chrono>
#include <cstdint>
#include <string>

namespace pimoe {

/// Bytes that are moved: told as WorkProgress does, and counted for what is said at the end.
class TransferProgress {
 public:
  /// @param total  bytes @param log  must outlive it
  TransferProgress(int64_t total, Logger& log) : total_(total), progress_("weights", WorkUnit::kBytes, log) {}

  void moved(int64_t bytes);
  int64_t bytes() const { return done_; }
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  int64_t total_;
  int64_t done_ = 0;
  Clock::time_point start_ = Clock::now();
  WorkProgress progress_;
};

}  // namespace pimoe
