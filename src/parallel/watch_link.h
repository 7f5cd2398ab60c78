#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// What travels between the ranks' watchdogs. Frame: magic u32, kind u16, payload bytes u16, payload; little or big endian as the machine has
/// it, for one job's ranks are of one kind.
enum class WatchFrame : uint16_t {
  kHello,    ///< WatchToken, RankName: the first of every connection
  kBeat,     ///< of a rank: both slots. Of rank 0, once for each interval: its own
  kError,    ///< exit code i32, Progress, text: this rank leaves by an exception
  kGoodbye,  ///< leaves in good order; from rank 0: nobody is watched from here on
  kAlarm,    ///< from rank 0: write your stacks, the job is at its end
  kWritten,  ///< they are
};

/// Random, told to the ranks over MPI: who does not know it is no rank of this job.
using WatchToken = std::array<uint8_t, 16>;

/// A TCP connection that never makes its user wait. Not thread-safe.
class WatchLink {
 public:
  static constexpr size_t kMostPayload = 4096;

  /// Owns `descriptor`, a connected socket.
  explicit WatchLink(int descriptor);
  ~WatchLink();
  WatchLink(WatchLink&& other) noexcept;
  WatchLink& operator=(WatchLink&& other) noexcept;

  struct Frame {
    WatchFrame kind;
    std::string payload;
  };

  /// Queues a frame and sends what the system takes; a peer that reads nothing loses frames after 64 KiB.
  void send(WatchFrame kind, const void* payload = nullptr, size_t bytes = 0);
  void flush();
  /// Takes in what has come. What is no frame closes the link.
  void receive();
  /// @returns the next frame, if one is whole
  std::optional<Frame> next();
  /// Whether the other end is gone, or talks nonsense. Frames that came before are still there.
  bool is_closed() const { return closed_; }
  bool has_unsent() const { return !unsent_.empty(); }
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_ = -1;
  bool closed_ = false;
  std::string received_;
  std::string unsent_;
};

/// A socket that listens on all interfaces, at a port that the system chooses.
class WatchListener {
 public:
  /// @throws CommError naming the system's reason
  WatchListener();
  ~WatchListener();
  WatchListener(const WatchListener&) = delete;
  WatchListener& operator=(const WatchListener&) = delete;

  int descriptor() const { return descriptor_; }
  int port() const { return port_; }
  /// @returns a descriptor, or -1 if nobody asks
  int accept() const;

 private:
  int descriptor_ = -1;
  int port_ = 0;
};

/// @returns this machine's addresses that others may reach, without the loopback's
std::vector<std::string> own_addresses();
/// @returns a connected socket, or -1 after `seconds`
int connect_to(const std::string& address, int port, double seconds);
/// @throws CommError if the system has no random numbers
WatchToken random_token();

}  // namespace pimoe
