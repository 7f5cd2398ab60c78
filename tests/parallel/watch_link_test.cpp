#include "parallel/watch_link.h"
#include "parallel/stack_dump.h"
#include "parallel/watch_hub.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace pimoe {
namespace {

std::pair<WatchLink, WatchLink> pair_of_links() {
  int ends[2] = {};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  return {WatchLink(ends[0]), WatchLink(ends[1])};
}

/// Waits, for at most ten seconds, until `link` is closed by its other end.
bool closes(WatchLink& link) {
  for (int wait = 0; wait < 1000 && !link.is_closed(); ++wait) {
    link.receive();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return link.is_closed();
}

TEST(WatchLink, FramesArriveWholeAndInOrder) {
  auto [here, there] = pair_of_links();
  here.send(WatchFrame::kHello, "abc", 3);
  here.send(WatchFrame::kGoodbye);
  there.receive();
  const auto first = there.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->kind, WatchFrame::kHello);
  EXPECT_EQ(first->payload, "abc");
  const auto second = there.next();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->kind, WatchFrame::kGoodbye);
  EXPECT_FALSE(there.next());
  EXPECT_FALSE(there.is_closed());
}

TEST(WatchLink, AFrameThatIsCutShortWaitsForItsRest) {
  auto [here, there] = pair_of_links();
  const std::string frame("PMaW\0\0\3\0abc", 11);  // magic, kind 0, three bytes; the machine is little-endian
  ASSERT_EQ(::write(here.descriptor(), frame.data(), 9), 9);
  there.receive();
  EXPECT_FALSE(there.next());
  ASSERT_EQ(::write(here.descriptor(), frame.data() + 9, 2), 2);
  there.receive();
  const auto whole = there.next();
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->payload, "abc");
}

TEST(WatchLink, NonsenseAndOversizeCloseIt) {
  for (const std::string& bytes : {std::string("GET / HTTP/1.1\r\n\r\n"), std::string("PMaW\0\0\xff\xff", 8)}) {
    auto [here, there] = pair_of_links();
    ASSERT_EQ(::write(here.descriptor(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    there.receive();
    EXPECT_FALSE(there.next());
    EXPECT_TRUE(there.is_closed());
  }
}

TEST(WatchLink, APeerThatReadsNothingCostsBoundedMemoryAndNoTime) {
  auto [here, there] = pair_of_links();
  const std::string payload(WatchLink::kMostPayload, 'x');
  for (int count = 0; count < 10000; ++count) here.send(WatchFrame::kBeat, payload.data(), payload.size());
  EXPECT_TRUE(here.has_unsent());
  EXPECT_FALSE(there.is_closed());
}

TEST(WatchHub, SendsStrangersAwayAndTakesARank) {
  Logger log;
  WatchTerms terms{.self = {}, .ranks = 2, .limit = 60.0, .folder = std::filesystem::temp_directory_path() / "pimoe-no-hang"};
  WatchHub hub(terms, log);
  hub.begin();
  RankName name;
  name.rank = 1;
  const auto hello = [&](WatchToken token, RankName who) {
    WatchLink link(connect_to("127.0.0.1", hub.port(), 5.0));
    std::string payload(reinterpret_cast<const char*>(token.data()), token.size());
    payload.append(reinterpret_cast<const char*>(&who), sizeof(who));
    link.send(WatchFrame::kHello, payload.data(), payload.size());
    return link;
  };
  WatchToken wrong = hub.token();
  wrong[3] ^= 1;
  WatchLink stranger = hello(wrong, name);
  EXPECT_TRUE(closes(stranger));
  WatchLink rank_1 = hello(hub.token(), name);
  const auto beats = own_beat();
  rank_1.send(WatchFrame::kBeat, &beats, sizeof(beats));
  std::optional<WatchLink::Frame> answer;
  for (int wait = 0; wait < 1000 && !answer; ++wait) {
    rank_1.receive();
    answer = rank_1.next();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->kind, WatchFrame::kBeat);
  rank_1.send(WatchFrame::kGoodbye);  // without it the hub's end would wait for this rank
}

TEST(StackDump, ShowsWhereAnotherThreadStands) {
  prepare_stack_dump();
  std::atomic<bool> done = false;
  std::thread other([&done] {
    while (!done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  const auto file = std::filesystem::temp_directory_path() / ("pimoe-stacks-" + std::to_string(::getpid()));
  EXPECT_TRUE(write_stacks(file, "rank 0"));
  done = true;
  other.join();
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  std::filesystem::remove(file);
  EXPECT_EQ(text.str().rfind("rank 0\n", 0), 0U);
  EXPECT_NE(text.str().find("\n  "), std::string::npos) << text.str();  // a frame
  EXPECT_EQ(text.str().find("does not answer"), std::string::npos) << text.str();
}

}  // namespace
}  // namespace pimoe
