#pragma once

#include "base/errors.h"
#include "base/log.h"
#include "checkpoint/checkpoint_store.h"
#include "train/run_events.h"

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// A run's saves: beside training or not, one at a time, tried again where they fail. All ranks make the same calls at the same steps.
class CheckpointKeeper {
 public:
  /// @param speaks  of one rank: its log tells what is the same on all
  /// @param events  is told of each save, and outlives it; null: nobody asks
  CheckpointKeeper(CheckpointStore& store, const CheckpointConfig& config, Logger& log, bool speaks, RunEvents* events = nullptr);

  /// Saves `snapshot`. One that is still being written is waited for, and that is said; where that one failed, this one is left out.
  /// @param last  the run ends after it: returns only once the checkpoint is good, and tries a few times for that
  /// @throws SaveError, the same on every rank: checkpoint.on_error is stop, the state cannot be saved at all, or the last save failed
  void save(const Snapshot& snapshot, bool last);

  /// The first save is some time away: what it needs is made until then. @param snapshot  with the pieces that will be saved
  void prepare(const Snapshot& snapshot) {
    if (asynchronous_ && config_.every_steps > 0) store_.prepare(snapshot);
  }

  /// Whether this rank is still writing. What is over on all ranks, all ranks collect.
  bool is_writing() const { return store_.is_running() && !store_.is_done(); }
  bool has_begun() const { return store_.is_running(); }
  /// Takes in a save that is over, and waits for one that is not, which is said. @throws SaveError as save()
  void collect();

  /// The last save failed. The same on every rank.
  bool has_failed() const { return retry_at_.has_value(); }
  /// A save failed, and none that is due is begun until it is tried again. The same on every rank.
  bool backs_off() const { return has_failed() && !has_begun(); }
  /// By this rank's clock: a save failed, and it is time for another. Ranks have to agree.
  bool is_retry_due() const;

  /// What the longest save so far would take now, with the one before it that is still being written; by this rank's clock.
  double foreseen_seconds() const { return longest_seconds_ * (is_writing() ? 2 : 1); }

  /// What went wrong since the last call, for the metrics file.
  std::vector<std::string> take_alarms() { return std::exchange(alarms_, {}); }

 private:
  using Clock = std::chrono::steady_clock;

  void save_once(const Snapshot& snapshot);
  void tell(const CheckpointStore::Report& report);
  /// Plans another try. @throws what it is told of where there is to be none
  void failed(const SaveError& error);
  void note_begun(int64_t step);

  CheckpointStore& store_;
  CheckpointConfig config_;
  Logger& log_;
  bool asynchronous_;
  bool speaks_;
  RunEvents* events_;
  double longest_seconds_ = 0.0;
  int failures_ = 0;        ///< in a row
  int64_t begun_step_ = 0;  ///< of the save that was begun last
  std::optional<Clock::time_point> retry_at_;
  std::vector<std::string> alarms_;
};

}  // namespace pimoe
