#pragma once

#include "base/log.h"

#include <chrono>
#include <cstdint>
#include <string>

namespace pimoe {

/// Takes a bar that stands on the terminal off it, so that another line can be written there; the next `at` draws it again.
void erase_terminal_bar();

/// Counts work that the innermost WorkProgress of this thread tells of, so that what is deep below a command hands no counter up; nothing where
/// there is none, as in training. @cost a look at the clock where there is one
void count_work(int64_t amount);

enum class WorkUnit : uint8_t { kBytes, kCount };

/// How far work is that may take longer than two seconds, how fast it goes, and how long it still takes. On a terminal one line with a bar, redrawn in
/// place; elsewhere a plain line every ten seconds. What takes less than two seconds says nothing, and only rank 0 speaks. Each call is a sign of
/// progress for the watchdog too (base/progress.h).
class WorkProgress {
 public:
  /// @param title  what is done: "verifying step-00000100" @param log  outlives it @param total  that count_work is to come to; 0: unknown
  WorkProgress(std::string title, WorkUnit unit, Logger& log, int64_t total = 0);
  /// Takes the bar off the terminal.
  ~WorkProgress();
  WorkProgress(const WorkProgress&) = delete;
  WorkProgress& operator=(const WorkProgress&) = delete;

  /// @param total  0: unknown @param remark  stands at the line's end: "12/40 files" @cost a look at the clock
  void at(int64_t done, int64_t total, const std::string& remark = "");
  /// So much was done before: the rate, and with it the time left, is of what is done from here on.
  void begin_at(int64_t done) { before_ = done; }

  /// @returns the line without a bar: "verifying ...: 1.2 GB of 4.0 GB (30 %)  210 MB/s  left 13s"
  /// @param before  what `done` began with, which took none of the seconds
  static std::string line(const std::string& title, WorkUnit unit, int64_t done, int64_t total, double seconds, const std::string& remark,
                          int64_t before = 0);
  /// @returns "[#####     ]" @param width  of what is between the brackets
  static std::string bar(double share, int width);

 private:
  friend void count_work(int64_t amount);
  using Clock = std::chrono::steady_clock;
  std::string title_;
  WorkUnit unit_;
  Logger& log_;
  int64_t total_;
  int64_t counted_ = 0;
  int64_t before_ = 0;
  WorkProgress* around_;  ///< of this thread, before this one
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
  bool said_ = false;
};

}  // namespace pimoe
