#pragma once

#include "base/log.h"
#include "parallel/watch_end.h"
#include "parallel/watch_link.h"

#include <atomic>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace pimoe {

/// Rank 0's part of the watchdog: one thread that hears all ranks, judges, and ends the job. One connection a rank, O(ranks) work for each
/// interval.
class WatchHub {
 public:
  /// Listens from here on; begin() starts the thread. @throws CommError if it cannot
  WatchHub(WatchTerms terms, Logger& log);
  /// Goes once every rank has said goodbye; until then it watches on.
  ~WatchHub();
  WatchHub(const WatchHub&) = delete;
  WatchHub& operator=(const WatchHub&) = delete;

  int port() const { return listener_.port(); }
  const WatchToken& token() const { return token_; }
  void begin();
  /// This rank leaves by an exception.
  void leave(const std::string& error, int exit_code);

 private:
  struct Peer {
    WatchLink link;
    int rank = -1;  ///< before its hello
    double since = 0.0;
    bool has_written = false;
  };

  void watch();
  void take_in();
  void hear(Peer& peer, const WatchLink::Frame& frame);
  void welcome(Peer& peer, const std::string& hello);
  void look_after_cut_ranks();
  void tell_about_missing_ranks();
  bool is_over() const;
  [[noreturn]] void end(const Verdict& verdict);

  WatchTerms terms_;
  Logger& log_;
  WatchListener listener_;
  WatchToken token_;
  std::list<Peer> peers_;
  std::vector<RankView> ranks_;
  std::vector<int> returns_;  ///< of each rank: how often its connection was made again
  double now_ = 0.0;
  double begun_ = 0.0;
  double quiet_until_ = 0.0;  ///< after this process itself was stopped for long: the others may be ending the job
  bool told_missing_ = false;
  bool urgent_ = false;  ///< something has been heard that is to be judged at once

  std::mutex mutex_;  ///< of what leave() gives to the thread
  std::string error_;
  int exit_code_ = 0;
  std::atomic<bool> ending_ = false;
  std::thread thread_;
};

}  // namespace pimoe
