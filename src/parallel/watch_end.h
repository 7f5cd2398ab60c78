#pragma once

#include "base/log.h"
#include "parallel/watch_verdict.h"

#include <array>
#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// What a watchdog does when the job is at its end. Nothing here waits for what a hung thread may hold.

/// What all parts of a watchdog need to know.
struct WatchTerms {
  RankName self;
  int ranks = 1;
  double limit = 30.0;               ///< seconds
  std::filesystem::path folder;      ///< where stacks go: RUN/hang
  std::vector<RankName> names = {};  ///< of all ranks; empty: not known
  /// Whether that folder is this job's: until then nothing is written, or removed, there.
  std::shared_ptr<std::atomic<bool>> has_folder = std::make_shared<std::atomic<bool>>(true);

  double interval() const;  ///< seconds between heartbeats: a tenth of the limit, at most 1
  /// @returns the sentences that end an error: where stacks are, and how to go on
  std::string advice() const;
};

/// @returns seconds of a clock that stands still in no process but a stopped one
double watch_clock();
/// This thread does nothing for so many seconds.
void sleep_for(double seconds);

/// @returns this process' heartbeat
std::array<SlotBeat, kProgressSlots> own_beat();

/// @returns RUN/hang/rank-0003.txt
std::filesystem::path stack_file(const WatchTerms& terms, int rank);

/// Writes this rank's stacks, below its record. Makes the folder. Failures are silent: the disk may be what hangs.
void write_own_stacks(const WatchTerms& terms);
/// Writes the last record of a rank that cannot write its own stacks.
void write_record(const WatchTerms& terms, const RankView& rank);

/// Several ranks may find at the same time that rank 0 is gone, and one of them is to say so: who makes a file in the folder first, with what is said in it.
/// @returns whether this rank is to speak; where the file cannot be made, it is once those before it would have ended the job
bool takes_the_word(const WatchTerms& terms, const std::string& text);

/// Logs an error; to the standard error alone if the log does not take it within a second, as a hung thread may hold it.
void say(Logger& log, const std::string& text);

/// Ends this process with `exit_code` in `seconds`, whatever happens until then.
void end_process_in(double seconds, int exit_code);
/// Ends all ranks: by MPI, and this process at least, which the launcher answers by ending the others.
[[noreturn]] void end_job(int exit_code);

}  // namespace pimoe
