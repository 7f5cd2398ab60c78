#pragma once

#include "base/log.h"

#include <chrono>
#include <cstdint>
#include <string>

namespace pimoe {

/// A line every two seconds while bytes are moved: how far, how fast, how long still. What takes less says nothing.
class TransferProgress {
 public:
  /// @param total  bytes @param log  must outlive it
  TransferProgress(int64_t total, Logger& log) : total_(total), log_(log) {}

  void moved(int64_t bytes);
  int64_t bytes() const { return done_; }
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  int64_t total_;
  Logger& log_;
  int64_t done_ = 0;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_line_ = start_;
};

}  // namespace pimoe
