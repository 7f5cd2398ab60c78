#pragma once

#include "base/log.h"
#include "serve/engine.h"

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <future>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace pimoe {

/// Has an engine take newer checkpoints of the run that it serves. Looking and reading happen beside the caller, who has signals to wait for: no function
/// waits. Nothing that goes wrong ends or changes what is served. For one thread.
class ReloadWatch {
 public:
  /// @param checkpoint  as given: a run folder, or a step-* folder, of which there is never a newer one
  ReloadWatch(std::filesystem::path checkpoint, Engine& engine, Logger& log)
      : checkpoint_(std::move(checkpoint)), engine_(engine), log_(log) {}
  /// Waits for the one file of a checkpoint that is being verified.
  ~ReloadWatch();
  ReloadWatch(const ReloadWatch&) = delete;
  ReloadWatch& operator=(const ReloadWatch&) = delete;

  /// Begins to look for a good checkpoint of a later step than is served; of those alone digests are read. While a look goes on, another begins behind it.
  /// @param was_asked  by a person: says also that there is none, and tries again what was damaged or could not be taken
  void look(bool was_asked);
  /// Says what came of looks and reloads since, and has the engine take what was found.
  void poll();

 private:
  /// What a look has found.
  struct Found {
    std::optional<std::filesystem::path> newer;
    std::string trouble;            ///< of the newest checkpoint that is later and not good
    std::set<std::string> damaged;  ///< whose digests are wrong
  };
  struct Reload {
    std::filesystem::path checkpoint;
    int64_t before = 0;  ///< the step that was served
    std::future<void> read;
  };

  Found find(int64_t served_step, const std::set<std::string>& refused) const;
  void begin_look(bool was_asked);
  void end_look();
  void end_reload(Reload& reload);
  /// @param again  also if it was the last that was said
  void warn(const std::string& trouble, bool again);

  const std::filesystem::path checkpoint_;
  Engine& engine_;
  Logger& log_;
  std::thread finder_;
  std::future<Found> found_;       ///< valid while a look goes on
  bool was_asked_ = false;         ///< for it
  std::optional<bool> next_;       ///< a look that is to follow, and whether it was asked for
  std::vector<Reload> reloads_;    ///< that have not ended
  std::set<std::string> refused_;  ///< checkpoints that are not tried again unasked
  std::string warned_;
  std::atomic<bool> is_leaving_ = false;
};

}  // namespace pimoe
