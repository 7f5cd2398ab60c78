#pragma once

/// Times of a program's own blocks, by name:
///
///     Tracker tracker;
///     {
///       const auto step = tracker.track("step");
///       const auto forward = tracker.track("forward");   // inside of "step" on this thread: "step/forward"
///       ...
///     }
///     std::cout << tracker.to_text();
///
/// For programs that use the library. What PiMoE itself says of time is elsewhere: base/progress.h is what a watchdog reads (where it is, not how
/// long it took), base/work_progress.h a bar for people, ops/trace_range.h names for profilers, which keep every event, and train/phase_times.h reads
/// those.

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace pimoe {

/// Thread-safe; must outlive its scopes.
class Tracker {
  /// Nanoseconds of one name. Counts by size, 32 to an octave, so that memory is 16 kB however often a block runs.
  struct Times {
    void add(int64_t nanoseconds);
    /// @returns seconds that so large a share of the blocks stayed within, to 1.6 %
    double percentile(double share) const;

    int64_t count = 0;
    int64_t sum = 0, least = 0, most = 0;
    std::array<int64_t, 2048> counts = {};
  };

 public:
  /// Times the block that it stands in, also one that an exception leaves. Belongs to the thread that made it, and ends before what was made before it, as
  /// variables of a block do.
  class Scope {
   public:
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    friend class Tracker;
    Scope(Tracker& tracker, std::string_view name);

    Tracker& tracker_;
    std::string path_;
    Scope* around_;  ///< of this thread, of whichever tracker
    Times* times_;
    std::chrono::steady_clock::time_point begin_;
  };

  /// Seconds of the blocks of one name that have ended.
  struct Summary {
    std::string name;
    int64_t count = 0;
    double total = 0.0, mean = 0.0, least = 0.0, most = 0.0;
    double p50 = 0.0, p95 = 0.0, p99 = 0.0;  ///< to 1.6 %
  };

  Tracker() = default;
  Tracker(const Tracker&) = delete;
  Tracker& operator=(const Tracker&) = delete;

  /// @param name  not empty. Inside of another scope of this tracker on this thread it is "outer/name"
  /// @cost two looks at the clock and a lock that is held for a few additions: below a microsecond
  [[nodiscard]] Scope track(std::string_view name);

  /// @returns names that have ended at least once, in the order of the alphabet, so that inner ones follow outer ones
  std::vector<Summary> summaries() const;
  /// A table for a person, a line for each name.
  std::string to_text() const;
  /// {"step/forward": {"count", "total_seconds", "mean_seconds", "least_seconds", "most_seconds", "p50_seconds", "p95_seconds", "p99_seconds"}, ...}
  std::string to_json() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Times, std::less<>> times_;  ///< addresses stay valid
};

}  // namespace pimoe
