#include "parallel/watch_client.h"

#include "base/file_io.h"
#include "parallel/watch_hub.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// Waits, for at most twenty seconds.
bool comes_true(const std::function<bool()>& holds) {
  for (int wait = 0; wait < 2000; ++wait) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

/// The port at the other end of a descriptor; 0 where it is no connection.
int peer_port(int descriptor) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (::getpeername(descriptor, reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
  return address.ss_family == AF_INET6 ? ntohs(reinterpret_cast<sockaddr_in6*>(&address)->sin6_port) : 0;
}

/// Cuts this process' connections to a port, as a firewall between two machines may. @returns whether there was one
bool cut_connections(int port) {
  bool any = false;
  for (int descriptor = 0; descriptor < 256; ++descriptor) {
    if (peer_port(descriptor) == port) any = ::shutdown(descriptor, SHUT_RDWR) == 0 || any;
  }
  return any;
}

int times_in(const fs::path& file, const std::string& words) {
  const std::string text = read_file(file);
  int times = 0;
  for (size_t at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++times;
  return times;
}

// A verdict would end this process.
TEST(WatchClient, ConnectsAgainWhereItsConnectionIsCutAndNobodyIsCalledDead) {
  char name[] = "/tmp/pimoe-watch-XXXXXX";
  const fs::path folder = mkdtemp(name);
  {
    Logger log(1);
    log.open_file(folder / "log");
    WatchTerms terms = {.self = own_name(0), .ranks = 2, .limit = 5.0, .folder = folder / "hang", .names = {own_name(0), own_name(1)}};
    WatchHub hub(terms, log);
    hub.begin();
    terms.self.rank = 1;
    const WatchClient client(terms, {hub.token(), hub.port(), {"127.0.0.1"}}, log);
    const auto is_told = [&](int times) { return times_in(folder / "log", "was cut, and is there again") >= times; };
    for (int round = 1; round <= 3; ++round) {
      // A connection that is cut before its first heartbeat is a first one still, of which nothing is told.
      for (int tries = 0; tries < 20 && !is_told(round); ++tries) {
        EXPECT_TRUE(comes_true([&] { return cut_connections(hub.port()); }));
        for (int wait = 0; wait < 200 && !is_told(round); ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      EXPECT_TRUE(is_told(round));
    }
    std::this_thread::sleep_for(std::chrono::seconds(3));  // longer than a rank has to come back
  }
  EXPECT_EQ(times_in(folder / "log", "error"), 0) << read_file(folder / "log");
  fs::remove_all(folder);
}

}  // namespace
}  // namespace pimoe
