#include "train/checkpoint_keeper.h"

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <thread>

namespace pimoe {
namespace {

constexpr int kMostDoublings = 5;
constexpr int kLastTries = 4;  // of the save that ends a run: after 0, 1, 3 and 7 seconds

}  // namespace

CheckpointKeeper::CheckpointKeeper(CheckpointStore& store, const CheckpointConfig& config, Logger& log, bool speaks, RunEvents* events)
    : store_(store), config_(config), log_(log), asynchronous_(config.saves_beside_training()), speaks_(speaks), events_(events) {}

void CheckpointKeeper::save(const Snapshot& snapshot, bool last) {
  const bool waited = has_begun();
  collect();
  if (waited && has_failed() && !last) return;
  note_begun(snapshot.step);
  if (!last && asynchronous_) return store_.begin(snapshot);
  for (int tries = 1;; ++tries) {
    try {
      return save_once(snapshot);
    } catch (const SaveError& error) {
      if (!last) return failed(error);
      if (events_ != nullptr) events_->add(snapshot.step, run_event::kSaveFailed, {{"why", error.what()}});
      if (!error.may_pass() || tries == kLastTries) throw;
      const auto pause = std::chrono::seconds(1 << (tries - 1));
      if (speaks_) log_.warning(concat(error.what(), ". It is the last save: trying again in ", pause.count(), " s"));
      const PatientOperation waiting;
      std::this_thread::sleep_for(pause);
    }
  }
}

void CheckpointKeeper::save_once(const Snapshot& snapshot) {
  const auto begun = Clock::now();
  store_.save(snapshot);
  const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
  tell({.step = snapshot.step, .bytes = 0, .copy_seconds = seconds, .write_seconds = seconds});
}

void CheckpointKeeper::collect() {
  if (!has_begun()) return;
  if (speaks_ && is_writing()) log_.info("the save before is still being written: waiting for it");
  try {
    tell(store_.finish());
  } catch (const SaveError& error) {
    failed(error);
  }
}

void CheckpointKeeper::note_begun(int64_t step) {
  begun_step_ = step;
  if (events_ != nullptr) events_->add(step, run_event::kSave);
}

void CheckpointKeeper::tell(const CheckpointStore::Report& report) {
  const PatientOperation on_files;  // the log and the events
  failures_ = 0;
  retry_at_.reset();
  longest_seconds_ = std::max(longest_seconds_, report.write_seconds);
  if (events_ != nullptr) {
    events_->add(report.step, run_event::kSaved, {{"waited_seconds", report.copy_seconds}, {"seconds", report.write_seconds}});
  }
  if (!speaks_) return;
  log_.info(concat("saved step ", report.step, ": training waited ", fixed(report.copy_seconds, 2), " s",
                   report.bytes == 0 ? ""
                                     : concat(", ", human_bytes(static_cast<double>(report.bytes)), " were written beside it in ",
                                              fixed(report.write_seconds, 1), " s")));
}

void CheckpointKeeper::failed(const SaveError& error) {
  const PatientOperation on_files;
  alarms_.push_back(error.what());
  if (events_ != nullptr) events_->add(begun_step_, run_event::kSaveFailed, {{"why", error.what()}});
  if (!error.may_pass() || config_.on_error == OnSaveError::kStop) throw error;
  const double seconds = config_.retry_seconds * static_cast<double>(1 << std::min(failures_, kMostDoublings));
  ++failures_;
  retry_at_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  if (speaks_) {
    log_.warning(concat(error.what(), ". Training goes on, and the checkpoints before it are as they were; it is tried again in ",
                        human_duration(seconds), failures_ == 1 ? "" : concat(" (failed ", failures_, " times in a row)")));
  }
}

bool CheckpointKeeper::is_retry_due() const { return retry_at_ && Clock::now() >= *retry_at_ && !has_begun(); }

}  // namespace pimoe
