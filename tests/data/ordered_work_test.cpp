#include "data/ordered_work.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>

namespace pimoe {
namespace {

TEST(OrderedWork, ComesBackInItsOrderWhateverEndsFirst) {
  OrderedWork<int> work(3);
  for (int i = 0; i < 200; ++i) {
    work.add([i] {
      if (i % 7 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      return i;
    });
  }
  EXPECT_EQ(work.size(), 200u);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(work.take_oldest(), i);
  EXPECT_EQ(work.size(), 0u);
  EXPECT_FALSE(work.oldest_is_done());
}

// Two pieces, each of which waits for the other.
TEST(OrderedWork, IsDoneAtOnce) {
  OrderedWork<int> work(2);
  std::promise<void> first, second;
  work.add([&] { return first.set_value(), second.get_future().wait(), 1; });
  work.add([&] { return second.set_value(), first.get_future().wait(), 2; });
  EXPECT_EQ(work.take_oldest(), 1);
  EXPECT_EQ(work.take_oldest(), 2);
}

TEST(OrderedWork, ThrowsWhatAPieceThrewWhereItIsTakenBack) {
  OrderedWork<int> work(1);
  work.add([] { return 1; });
  work.add([]() -> int { throw std::runtime_error("no"); });
  work.add([] { return 3; });
  EXPECT_EQ(work.take_oldest(), 1);
  EXPECT_THROW(work.take_oldest(), std::runtime_error);
  EXPECT_EQ(work.take_oldest(), 3);
}

TEST(OrderedWork, WhatHasNotBegunIsNotDone) {
  std::atomic<int> done = 0;
  {
    OrderedWork<int> work(1);
    for (int i = 0; i < 100; ++i) {
      work.add([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return ++done;
      });
    }
    work.take_oldest();
  }
  EXPECT_LT(done, 100);
  EXPECT_GE(done, 1);
}

}  // namespace
}  // namespace pimoe
