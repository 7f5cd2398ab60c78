#include "base/file_io.h"
#include "base/text.h"
#include "parallel/stack_dump.h"
#include "parallel/watch_client.h"
#include "parallel/watch_hub.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr double kLimit = 2.0;

bool comes_true(const std::function<bool()>& holds) {
  for (int wait = 0; wait < 4000; ++wait) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

int times_in(const std::string& text, const std::string& words) {
  int times = 0;
  for (size_t at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++times;
  return times;
}

/// The network between rank 0 and the others: passes bytes on, and can be cut.
class Network {
 public:
  Network() : listener_(std::in_place), port_(listener_->port()), thread_([this] { carry(); }) {}
  ~Network() {
    ending_ = true;
    thread_.join();
  }
  int port() const { return port_; }
  void lead_to(int port) { to_ = port; }
  int connections() const { return connections_; }
  /// Closes all connections. @param for_good  new ones are refused
  void cut(bool for_good) {
    is_down_ = for_good;
    cuts_ += 1;
  }

 private:
  struct Pair {
    int ends[2];
  };

  void carry() {
    std::list<Pair> pairs;
    for (int cuts = 0; !ending_;) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      if (cuts != cuts_) {
        for (const Pair& pair : pairs) close(pair);
        pairs.clear();
        cuts = cuts_;
        if (is_down_) listener_.reset();
      }
      for (int here = listener_ ? listener_->accept() : -1; here >= 0; here = listener_->accept()) {
        const int there = connect_to("127.0.0.1", to_, 5.0);
        if (there >= 0) pairs.push_back({{here, there}});
        if (there < 0) ::close(here);
      }
      std::erase_if(pairs, [](const Pair& pair) {
        const bool whole = pass(pair.ends[0], pair.ends[1]) && pass(pair.ends[1], pair.ends[0]);
        if (!whole) close(pair);
        return !whole;
      });
      connections_ = static_cast<int>(pairs.size());
    }
    for (const Pair& pair : pairs) close(pair);
  }
  static void close(const Pair& pair) {
    for (const int end : pair.ends) ::close(end);
  }
  static bool pass(int from, int to) {
    char bytes[4096];
    const ssize_t got = ::recv(from, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    return got > 0 && ::send(to, bytes, static_cast<size_t>(got), MSG_NOSIGNAL) == got;
  }

  std::optional<WatchListener> listener_;
  const int port_;
  std::atomic<int> to_ = 0;
  std::atomic<int> cuts_ = 0;
  std::atomic<int> connections_ = 0;
  std::atomic<bool> is_down_ = false;
  std::atomic<bool> ending_ = false;
  std::thread thread_;
};

template <class Value>
void tell(int pipe, const Value& value) {
  EXPECT_EQ(::write(pipe, &value, sizeof(value)), static_cast<ssize_t>(sizeof(value)));
}
template <class Value>
Value hear(int pipe) {
  Value value;
  EXPECT_EQ(::read(pipe, &value, sizeof(value)), static_cast<ssize_t>(sizeof(value)));
  return value;
}

struct Door {
  WatchToken token;
  int port;
};

/// Ranks that are processes of their own, and do nothing but watch each other.
class WatchedJob : public testing::Test {
 protected:
  WatchedJob() {
    char name[] = "/tmp/pimoe-watched-XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~WatchedJob() override {
    network_.reset();
    for (const Process& process : ranks_) {
      ::kill(process.pid, SIGKILL);
      if (!process.is_reaped) ::waitpid(process.pid, nullptr, 0);
      for (const int pipe : {process.to[0], process.to[1], process.from[0], process.from[1]}) ::close(pipe);
    }
    fs::remove_all(folder_);
  }

  /// @param are_near  whether the ranks know that they are processes of one machine
  void start(int ranks, bool are_near = true) {
    ranks_.resize(static_cast<size_t>(ranks));
    for (int rank = 0; rank < ranks; ++rank) {  // before this process has threads
      Process& process = ranks_[static_cast<size_t>(rank)];
      ASSERT_EQ(::pipe(process.to), 0);
      ASSERT_EQ(::pipe(process.from), 0);
      process.pid = ::fork();
      ASSERT_GE(process.pid, 0);
      if (process.pid == 0) be(rank, ranks, are_near, process.to[0], process.from[1]);
    }
    std::vector<RankName> names;
    for (const Process& process : ranks_) names.push_back(hear<RankName>(process.from[0]));
    for (const Process& process : ranks_) {
      for (const RankName& name : names) tell(process.to[1], name);
    }
    Door door = hear<Door>(ranks_[0].from[0]);
    network_ = std::make_unique<Network>();
    network_->lead_to(door.port);
    door.port = network_->port();
    for (int rank = 1; rank < ranks; ++rank) tell(ranks_[static_cast<size_t>(rank)].to[1], door);
    if (fails_at_once_) return;
    ASSERT_TRUE(comes_true([&] { return network_->connections() == ranks - 1; }));
    std::this_thread::sleep_for(std::chrono::seconds(1));  // heartbeats
  }

  void send(int rank, int number) {
    const pid_t pid = ranks_[static_cast<size_t>(rank)].pid;
    ASSERT_EQ(::kill(pid, number), 0);
    if (number != SIGSTOP) return;
    ASSERT_EQ(::waitpid(pid, nullptr, WUNTRACED), pid);  // all its threads stand
  }
  Network& network() { return *network_; }

  /// Waits for the end of one of the ranks. @returns its exit code
  int code_of(int rank) {
    Process& process = ranks_[static_cast<size_t>(rank)];
    int status = 0;
    EXPECT_TRUE(comes_true([&] { return ::waitpid(process.pid, &status, WNOHANG) == process.pid; })) << "rank " << rank << " goes on";
    process.is_reaped = WIFEXITED(status) || WIFSIGNALED(status);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::string log_of(int rank) const { return read_file(log_file(rank)); }
  std::string all_logs() const {
    std::string text;
    for (size_t rank = 0; rank < ranks_.size(); ++rank) text += log_of(static_cast<int>(rank));
    return text;
  }
  fs::path folder_;
  bool fails_at_once_ = false;  ///< the last rank

 private:
  struct Process {
    pid_t pid = 0;
    bool is_reaped = false;
    int to[2];
    int from[2];
  };

  fs::path log_file(int rank) const { return folder_ / concat("log-", rank); }

  [[noreturn]] void be(int rank, int ranks, bool are_near, int from, int to) const {
    prepare_stack_dump();
    Logger log(rank);
    log.open_file(log_file(rank));
    WatchTerms terms = {.self = own_name(rank), .ranks = ranks, .limit = kLimit, .folder = folder_ / "hang"};
    if (!are_near) terms.self.machine = static_cast<uint64_t>(rank + 1);
    tell(to, terms.self);
    for (int count = 0; count < ranks; ++count) terms.names.push_back(hear<RankName>(from));
    std::unique_ptr<WatchHub> hub;
    std::unique_ptr<WatchClient> client;
    if (rank == 0) {
      hub = std::make_unique<WatchHub>(terms, log);
      hub->begin();
      tell(to, Door{hub->token(), hub->port()});
    } else {
      const Door door = hear<Door>(from);
      client = std::make_unique<WatchClient>(terms, WatchAddress{door.token, door.port, {"127.0.0.1"}}, log);
      if (fails_at_once_ && rank == ranks - 1 && !client->leave("data: token 70000 is out of range", 65)) _exit(1);
    }
    while (true) ::pause();
  }

  std::vector<Process> ranks_;
  std::unique_ptr<Network> network_;
};

TEST_F(WatchedJob, ARankThatIsKilledIsDead) {
  start(3);
  send(2, SIGKILL);
  EXPECT_EQ(code_of(0), 70);
  EXPECT_NE(log_of(0).find("error: dead: rank 2 ("), std::string::npos) << log_of(0);
  EXPECT_NE(log_of(0).find("the process is gone"), std::string::npos) << log_of(0);
}

TEST_F(WatchedJob, AllThatAreKilledTogetherAreNamed) {
  start(4);
  send(1, SIGKILL);
  send(3, SIGKILL);
  EXPECT_EQ(code_of(0), 70);
  const std::string said = log_of(0);
  EXPECT_NE(said.find("error: dead: rank 1 ("), std::string::npos) << said;
  EXPECT_NE(said.find("; rank 3 ("), std::string::npos) << said;
  EXPECT_NE(said.find("the processes are gone"), std::string::npos) << said;
}

TEST_F(WatchedJob, WhereRankZeroAndOthersAreKilledTogetherOneSurvivorNamesThemAll) {
  start(5);
  send(0, SIGKILL);
  send(1, SIGKILL);
  for (const int rank : {2, 3, 4}) EXPECT_EQ(code_of(rank), 70);
  const std::string said = all_logs();
  EXPECT_EQ(times_in(said, "error: "), 1) << said;
  EXPECT_NE(said.find("error: dead: rank 0 ("), std::string::npos) << said;
  EXPECT_NE(said.find("gone as well: rank 1 ("), std::string::npos) << said;
  EXPECT_EQ(times_in(said, "rank 2 ("), 0) << said;
}

TEST_F(WatchedJob, OneSurvivorSpeaksWhereTheFolderCannotBeWritten) {
  write_durably(folder_ / "hang", "a file", 6);
  start(4);
  send(0, SIGKILL);
  send(1, SIGKILL);
  EXPECT_EQ(code_of(2), 70);
  const std::string said = all_logs();
  EXPECT_EQ(times_in(said, "error: "), 1) << said;
  EXPECT_NE(log_of(2).find("error: dead: rank 0 ("), std::string::npos) << said;
}

TEST_F(WatchedJob, AStoppedRankWhoseConnectionIsCutIsNotCalledGone) {
  start(2);
  send(1, SIGSTOP);
  network().cut(/*for_good=*/false);
  EXPECT_EQ(code_of(0), 70);
  const std::string said = log_of(0);
  EXPECT_NE(said.find("error: stopped: rank 1 ("), std::string::npos) << said;
  EXPECT_NE(said.find("s ago and is not made again; the process is there, stopped by a signal or a debugger)"), std::string::npos) << said;
  EXPECT_EQ(said.find("gone"), std::string::npos) << said;
}

TEST_F(WatchedJob, ARankThatCannotBeAskedIsNotCalledGone) {
  start(2, /*are_near=*/false);
  send(1, SIGSTOP);
  network().cut(/*for_good=*/false);
  EXPECT_EQ(code_of(0), 70);
  const std::string said = log_of(0);
  EXPECT_NE(said.find("error: lost: rank 1 ("), std::string::npos) << said;
  EXPECT_NE(said.find("its machine cannot be asked from here"), std::string::npos) << said;
  EXPECT_EQ(said.find("dead"), std::string::npos) << said;
}

TEST_F(WatchedJob, WhereTheNetworkIsCutForGoodRankZeroSpeaksAlone) {
  start(2);
  network().cut(/*for_good=*/true);
  EXPECT_EQ(code_of(0), 70);
  EXPECT_NE(log_of(0).find("error: stopped: rank 1 ("), std::string::npos) << log_of(0);
  EXPECT_EQ(times_in(all_logs(), "error: "), 1) << all_logs();
}

TEST_F(WatchedJob, WhereTheNetworkBetweenTwoMachinesIsCutForGoodNobodyIsCalledDead) {
  start(2, /*are_near=*/false);
  network().cut(/*for_good=*/true);
  EXPECT_EQ(code_of(0), 70);
  EXPECT_EQ(code_of(1), 70) << "where the launcher does not end it";
  EXPECT_NE(log_of(0).find("error: lost: rank 1 ("), std::string::npos) << log_of(0);
  EXPECT_NE(log_of(1).find("error: lost: rank 0 ("), std::string::npos) << log_of(1);
  EXPECT_EQ(times_in(all_logs(), "dead"), 0) << all_logs();
}

TEST_F(WatchedJob, ARankThatFailsBeforeItIsConnectedIsToldOfByItsError) {
  fails_at_once_ = true;
  start(3);
  EXPECT_EQ(code_of(0), 65);
  EXPECT_NE(log_of(0).find("error: failed: rank 2 ("), std::string::npos) << log_of(0);
  EXPECT_NE(log_of(0).find("data: token 70000 is out of range"), std::string::npos) << log_of(0);
}

// The system takes a connection in for a stopped process too: that it was made again says nothing.
TEST_F(WatchedJob, AStoppedRankZeroIsNotCalledGoneHoweverItsConnectionsAreCut) {
  start(3);
  send(0, SIGSTOP);
  network().cut(/*for_good=*/false);
  std::this_thread::sleep_for(std::chrono::seconds(1));
  network().cut(/*for_good=*/false);
  for (const int rank : {1, 2}) EXPECT_EQ(code_of(rank), 70);
  const std::string said = all_logs();
  EXPECT_EQ(times_in(said, "error: "), 1) << said;
  EXPECT_NE(said.find("error: stopped: rank 0 ("), std::string::npos) << said;
  EXPECT_EQ(said.find("gone"), std::string::npos) << said;
}

TEST_F(WatchedJob, AStoppedRankZeroThatCannotBeReachedIsNotCalledGone) {
  start(2);
  send(0, SIGSTOP);
  network().cut(/*for_good=*/true);
  EXPECT_EQ(code_of(1), 70);
  const std::string said = log_of(1);
  EXPECT_NE(said.find("error: stopped: rank 0 ("), std::string::npos) << said;
  EXPECT_EQ(said.find("gone"), std::string::npos) << said;
}

}  // namespace
}  // namespace pimoe
