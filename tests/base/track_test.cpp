#include "base/track.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <stdexcept>
#include <thread>
#include <vector>

namespace pimoe {
namespace {

using std::chrono::milliseconds;

std::vector<std::string> names(const Tracker& tracker) {
  std::vector<std::string> all;
  for (const Tracker::Summary& each : tracker.summaries()) all.push_back(each.name);
  return all;
}

TEST(Tracker, CountsEachBlockOnceItHasEnded) {
  Tracker tracker;
  {
    const auto open = tracker.track("open");
    EXPECT_TRUE(tracker.summaries().empty()) << "it has not ended";
    for (int time = 0; time < 3; ++time) const auto again = tracker.track("again");
  }
  EXPECT_EQ(names(tracker), (std::vector<std::string>{"open", "open/again"}));
  EXPECT_EQ(tracker.summaries()[0].count, 1);
  EXPECT_EQ(tracker.summaries()[1].count, 3);
}

TEST(Tracker, TimesAreThoseThatPassed) {
  Tracker tracker;
  for (const int pause : {2, 2, 2, 2, 40}) {
    const auto scope = tracker.track("sleep");
    std::this_thread::sleep_for(milliseconds(pause));
  }
  const Tracker::Summary sleep = tracker.summaries().at(0);
  EXPECT_GE(sleep.least, 0.002);  // a slow machine takes longer, none less
  EXPECT_GE(sleep.most, 0.040);
  EXPECT_GE(sleep.total, 0.048);
  EXPECT_DOUBLE_EQ(sleep.mean, sleep.total / 5);
  EXPECT_LE(sleep.p50, sleep.p95);
  EXPECT_LE(sleep.p95, sleep.p99);
  EXPECT_LE(sleep.p99, sleep.most);
  EXPECT_GE(sleep.p50, sleep.least);
  EXPECT_NEAR(sleep.p99, sleep.most, 0.017 * sleep.most) << "of five the largest is the 99th percentile";
}

TEST(Tracker, ABlockThatAnExceptionLeavesCountsAndEndsItsNesting) {
  Tracker tracker;
  try {
    const auto outer = tracker.track("outer");
    const auto inner = tracker.track("inner");
    throw std::runtime_error("on purpose");
  } catch (const std::runtime_error&) {
    const auto after = tracker.track("after");
  }
  EXPECT_EQ(names(tracker), (std::vector<std::string>{"after", "outer", "outer/inner"}));
}

TEST(Tracker, TrackersAndThreadsDoNotNestInEachOther) {
  Tracker one, other;
  {
    const auto a = one.track("a");
    const auto b = other.track("b");
    const auto c = one.track("c");
    std::thread([&] { const auto d = one.track("d"); }).join();
  }
  EXPECT_EQ(names(one), (std::vector<std::string>{"a", "a/c", "d"}));
  EXPECT_EQ(names(other), (std::vector<std::string>{"b"}));
}

TEST(Tracker, ManyThreadsLoseNoBlock) {
  Tracker tracker;
  std::vector<std::thread> threads;
  for (int index = 0; index < 8; ++index) {
    threads.emplace_back([&tracker, index] {
      for (int time = 0; time < 1000; ++time) {
        const auto own = tracker.track("thread " + std::to_string(index));
        const auto shared = tracker.track("inside");
        if (time % 100 == 0) {
          EXPECT_LE(tracker.summaries().size(), 16u);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(tracker.summaries().size(), 16u);
  for (const Tracker::Summary& each : tracker.summaries()) EXPECT_EQ(each.count, 1000) << each.name;
}

TEST(Tracker, TextAndJsonSayTheSame) {
  Tracker tracker;
  EXPECT_EQ(tracker.to_text(), "");
  EXPECT_EQ(tracker.to_json(), "{}");
  for (int time = 0; time < 2; ++time) const auto scope = tracker.track("a \"name\"");
  EXPECT_EQ(tracker.to_text().find("a \"name\"  2 x  mean "), 0u) << tracker.to_text();
  const auto document = nlohmann::json::parse(tracker.to_json());
  const Tracker::Summary summary = tracker.summaries().at(0);
  EXPECT_EQ(document.at("a \"name\"").at("count"), 2);
  EXPECT_EQ(document.at("a \"name\"").at("p95_seconds").get<double>(), summary.p95);
  EXPECT_EQ(document.at("a \"name\"").at("mean_seconds").get<double>(), summary.mean);
}

}  // namespace
}  // namespace pimoe
