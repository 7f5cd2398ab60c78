#pragma once

#include "base/log.h"
#include "parallel/watch_end.h"
#include "parallel/watch_link.h"

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace pimoe {

/// Where rank 0 listens, as it told the others.
struct WatchAddress {
  WatchToken token = {};
  int port = 0;
  std::vector<std::string> addresses;  ///< to be tried in this order
};

/// The other ranks' part of the watchdog: one thread that sends heartbeats to rank 0, and speaks in its place when it is gone.
class WatchClient {
 public:
  /// Connects beside training. Where that fails this rank is not watched, which rank 0 says.
  WatchClient(WatchTerms terms, WatchAddress address, Logger& log);
  /// Says goodbye.
  ~WatchClient();
  WatchClient(const WatchClient&) = delete;
  WatchClient& operator=(const WatchClient&) = delete;

  /// This rank leaves by an exception. @returns whether rank 0 is told, or will be once there is a connection, or whether this rank speaks in its place
  bool leave(const std::string& error, int exit_code);

 private:
  void watch();
  /// @param again  after the connection was cut: also at the end, because a goodbye is owed
  bool connect(bool again);
  bool is_cut();
  /// Makes the connection again, or learns what became of rank 0.
  void mend_connection();
  void beat();
  /// @returns false once rank 0 has said goodbye
  bool listen();
  [[noreturn]] void end_after_alarm();
  /// Ends the job for what is known of rank 0.
  [[noreturn]] void end_because_rank_0_is(Verdict::Kind kind);

  WatchTerms terms_;
  WatchAddress address_;
  Logger& log_;
  RankView rank_0_;  ///< name, when it was heard of, and since when it is cut off
  double now_ = 0.0;
  bool was_stopped_ = false;  ///< for so long that it may be why the job ends

  std::mutex mutex_;  ///< of the next two
  std::optional<WatchLink> link_;
  std::string leaving_;  ///< what rank 0 is told of an exception; "": there is none
  std::atomic<bool> is_unwatched_ = false;
  std::atomic<bool> ending_ = false;
  std::thread thread_;
};

}  // namespace pimoe
