#include "train/stop_request.h"

#include "support/temporary_folder.h"

#include <gtest/gtest.h>

#include <csignal>
#include <fstream>

namespace pimoe {
namespace {

TEST(StopRequest, HearsItsSignals) {
  for (const int number : {SIGUSR1, SIGUSR2, SIGTERM, SIGHUP, SIGINT}) {
    std::signal(number, SIG_DFL);
    const StopRequest stop;
    EXPECT_FALSE(stop.raised());
    EXPECT_FALSE(stop.was_blocked());
    std::raise(number);
    EXPECT_TRUE(stop.signalled());
    EXPECT_TRUE(stop.raised());
  }
}

TEST(StopRequest, DoesNotHearASignalOfTheTerminalThatWasIgnoredBefore) {
  std::signal(SIGHUP, SIG_IGN);  // as nohup leaves it
  const StopRequest stop;
  std::raise(SIGHUP);
  EXPECT_FALSE(stop.raised());
}

// As a process that a batch system started may inherit it.
TEST(StopRequest, HearsWhatWasBlockedBefore) {
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  const StopRequest stop;
  EXPECT_TRUE(stop.was_blocked());
  std::raise(SIGUSR1);
  EXPECT_TRUE(stop.raised());
}

TEST(StopRequest, SeesALauncherThatKeepsTheSignal) {
  const TemporaryFolder folder;
  const auto process = [&](const std::string& name, const std::string& library) {
    std::ofstream(folder.path() / "comm") << name << "\n";
    std::ofstream(folder.path() / "maps") << "55d0c2a00000-55d0c2a01000 r--p 00000000 08:01 1 /usr/bin/orterun\n"
                                          << "7ff81a200000-7ff81b200000 r-xp 00000000 08:01 2 /usr/lib/x86_64-linux-gnu/" << library
                                          << "\n";
    return keeps_sigusr1(folder.path());
  };
  EXPECT_TRUE(process("mpirun", "libLLVM-16.so.1"));
  EXPECT_FALSE(process("mpirun", "libevent_core-2.1.so.7"));
  EXPECT_FALSE(process("bash", "libLLVM-16.so.1")) << "who passes nothing on keeps nothing either";
  EXPECT_FALSE(keeps_sigusr1("/proc/0")) << "there is no such process";
  EXPECT_FALSE(keeps_sigusr1(parent_process())) << "what started this test";
}

TEST(StopRequest, IsRaisedByTheClock) {
  StopRequest stop;
  stop.raise_after(0.0);
  EXPECT_FALSE(stop.raised());
  stop.raise_after(1e-9);
  EXPECT_TRUE(stop.out_of_time());
  EXPECT_TRUE(stop.raised());
  EXPECT_FALSE(stop.signalled());
}

// A hundred seconds are left, and twenty behind them: enough for a save of ninety, with a quarter to spare, and not for one of a hundred.
TEST(StopRequest, IsRaisedEarlierWhereTheLastSaveTakesLonger) {
  StopRequest stop;
  EXPECT_FALSE(stop.out_of_time(1e9)) << "no end is known";
  stop.raise_after(100.0, /*margin=*/20.0);
  EXPECT_FALSE(stop.raised());
  EXPECT_FALSE(stop.raised(/*save_seconds=*/16.0)) << "inside the margin";
  EXPECT_FALSE(stop.raised(/*save_seconds=*/90.0));
  EXPECT_TRUE(stop.raised(/*save_seconds=*/100.0));
  EXPECT_TRUE(stop.out_of_time(/*save_seconds=*/100.0));
}

}  // namespace
}  // namespace pimoe
