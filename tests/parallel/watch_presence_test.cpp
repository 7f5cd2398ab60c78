#include "parallel/watch_presence.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace pimoe {
namespace {

/// Waits, for at most ten seconds, until a process is seen so.
bool is_seen(const RankName& name, Presence presence) {
  for (int wait = 0; wait < 1000; ++wait) {
    if (presence_of(name, own_name(0)) == presence) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(WatchPresence, AProcessIsThereStoppedAndGoneAlsoBeforeAnybodyWaitsForIt) {
  int names[2];
  ASSERT_EQ(::pipe(names), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const RankName name = own_name(1);
    if (::write(names[1], &name, sizeof(name)) < 0) _exit(1);
    while (true) ::pause();
  }
  RankName name;
  ASSERT_EQ(::read(names[0], &name, sizeof(name)), static_cast<ssize_t>(sizeof(name)));
  EXPECT_EQ(name.pid, child);
  EXPECT_TRUE(is_seen(name, Presence::kThere));
  ::kill(child, SIGSTOP);
  EXPECT_TRUE(is_seen(name, Presence::kStopped));
  ::kill(child, SIGCONT);
  EXPECT_TRUE(is_seen(name, Presence::kThere));

  RankName another = name;
  another.started -= 1;
  EXPECT_EQ(presence_of(another, own_name(0)), Presence::kGone) << "its number is another process' by now";
  another = name;
  another.machine += 1;
  EXPECT_EQ(presence_of(another, own_name(0)), Presence::kUnknown);
  another.machine = 0;
  EXPECT_EQ(presence_of(another, another), Presence::kUnknown) << "two machines that do not know which they are may be two";

  ::kill(child, SIGKILL);
  EXPECT_TRUE(is_seen(name, Presence::kGone));
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(is_seen(name, Presence::kGone));
  for (const int end : names) ::close(end);
}

}  // namespace
}  // namespace pimoe
