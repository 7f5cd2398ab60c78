#pragma once

#include "serve/engine.h"
#include "serve/scheduler.h"

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace pimoe {

/// What the engine's thread shares with those that ask: requests on their way to it, and what is known of all of them. Thread-safe.
class EngineInbox {
 public:
  struct Reload {
    std::filesystem::path checkpoint;
    std::promise<void> done;
  };
  /// What has come since the engine looked.
  struct Mail {
    std::vector<std::unique_ptr<ServedText>> texts;
    std::vector<uint64_t> cancels;
    bool cancels_all = false;
    std::optional<Reload> reload;
    bool closing = false;
  };

  EngineInbox(const EngineLimits& limits, EngineStatus status);

  // Of any thread; Engine says what they throw.
  uint64_t submit(GenerationRequest request, GenerationListener listener, int64_t beginning);
  void cancel(uint64_t id);
  void cancel_all();
  /// Takes the place of those that have not begun. @returns ready when the weights are read
  std::future<void> reload(const std::filesystem::path& checkpoint);
  void drain();
  void close();
  EngineStatus status() const;

  // Of the engine's thread.
  Mail take(bool takes_reload);
  /// Returns when something has come, or after that time.
  void wait(std::chrono::steady_clock::duration time);
  using Change = std::function<void(EngineStatus&)>;
  void change_status(const Change& change);
  /// Texts have begun: they wait no more. @param change  what else nobody may see without it
  void note_begun(const std::vector<size_t>& clients, const Change& change);
  /// A text has ended, and its listener has not heard yet. @param waited  it had not begun
  void note_ending(size_t client, bool waited, bool was_cancelled, const Change& change);
  /// Its listener has heard. Who drains may end the engine, and what the listener belongs to, from here on.
  void note_heard();
  /// The engine takes no more. @returns the texts that it has not taken
  std::vector<std::unique_ptr<ServedText>> fail(const std::exception_ptr& failure);
  void note_all_heard();
  /// Whoever is to hear of the failure has: who drains may go on.
  void note_failure_told();
  /// Those that have not begun.
  void end_reloads(const std::exception_ptr& why);

 private:
  void waits_no_more(size_t client);

  const int64_t max_queue_;
  const SharedPlaces queue_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;   ///< the engine's thread
  std::condition_variable ended_;  ///< who drains
  std::vector<std::unique_ptr<ServedText>> texts_;
  std::vector<uint64_t> cancels_;
  bool cancels_all_ = false;  ///< all that have come until now
  std::vector<Reload> reloads_;
  uint64_t last_id_ = 0;
  std::map<size_t, int64_t> waiting_of_;  ///< requests of each client that have not begun
  int64_t unended_ = 0;
  bool draining_ = false, closing_ = false, failed_ = false;
  bool failure_is_told_ = false;
  EngineStatus status_;
};

}  // namespace pimoe
