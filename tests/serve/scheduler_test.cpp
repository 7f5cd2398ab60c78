#include "serve/scheduler.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

/// Texts that need so many pages of one token, two at least.
std::unique_ptr<ServedText> text_of(size_t client, uint64_t id, int64_t pages = 2) {
  GenerationRequest request;
  request.prompt = {static_cast<int64_t>(id)};  // no two begin alike
  request.max_tokens = pages;
  request.client = client;
  return std::make_unique<ServedText>(
      id, std::move(request), [](const GenerationUpdate&) {}, 0);
}

std::vector<uint64_t> running(const Scheduler& scheduler) {
  std::vector<uint64_t> ids;
  for (const auto& text : scheduler.running()) ids.push_back(text->id);
  return ids;
}

SchedulerLimits limits_of(int64_t max_batch, int64_t pages, bool has_several_clients) {
  return {.pages = pages, .page_tokens = 1, .max_batch = max_batch, .has_several_clients = has_several_clients};
}

TEST(Scheduler, LetsTheClientBeginOfWhichTheFewestTextsRun) {
  Scheduler scheduler(limits_of(4, 1000, /*has_several_clients=*/false));
  for (const uint64_t id : {1, 2, 3, 4, 5}) scheduler.add(text_of(0, id));
  for (const uint64_t id : {6, 7}) scheduler.add(text_of(1, id));
  scheduler.admit();
  EXPECT_EQ(running(scheduler), (std::vector<uint64_t>{1, 6, 2, 7}));
  for (const uint64_t id : {6, 7, 3}) EXPECT_NE(scheduler.remove(id), nullptr);  // 3 has not begun
  EXPECT_EQ(scheduler.remove(3), nullptr);
  scheduler.add(text_of(2, 8));
  scheduler.admit();
  EXPECT_EQ(running(scheduler), (std::vector<uint64_t>{1, 2, 8, 4}));
  EXPECT_EQ(scheduler.ids(), (std::vector<uint64_t>{1, 2, 8, 4, 5}));
}

// 16 places, of which an eighth is 2.
TEST(Scheduler, KeepsTheLastEighthOfPlacesForWhoHasLess) {
  Scheduler scheduler(limits_of(16, 1000, /*has_several_clients=*/true));
  for (uint64_t id = 1; id <= 30; ++id) scheduler.add(text_of(0, id));
  EXPECT_EQ(scheduler.admit(), 14);
  for (uint64_t id = 31; id <= 35; ++id) scheduler.add(text_of(1, id));
  EXPECT_EQ(scheduler.admit(), 2);
  EXPECT_EQ(scheduler.running().back()->id, 32u);
  scheduler.remove(1);
  EXPECT_EQ(scheduler.admit(), 0) << "15 run, and both clients have two or more";
}

TEST(Scheduler, OfOneClientAloneKeepsNothingBack) {
  Scheduler scheduler(limits_of(16, 1000, /*has_several_clients=*/false));
  for (uint64_t id = 1; id <= 30; ++id) scheduler.add(text_of(0, id));
  EXPECT_EQ(scheduler.admit(), 16);
}

TEST(Scheduler, KeepsTheLastEighthOfPagesForWhoHasFewTexts) {
  Scheduler scheduler(limits_of(16, /*pages=*/32, /*has_several_clients=*/true));
  for (uint64_t id = 1; id <= 5; ++id) scheduler.add(text_of(0, id, 10));
  EXPECT_EQ(scheduler.admit(), 2);
  EXPECT_EQ(scheduler.free_pages(), 12);
  scheduler.remove(1);
  scheduler.remove(2);
  scheduler.add(text_of(0, 6, 32));
  for (const uint64_t id : {3, 4, 5}) scheduler.remove(id);
  EXPECT_EQ(scheduler.admit(), 1) << "a text that needs all pages begins where its client has no other";
  scheduler.remove(6);
  for (uint64_t id = 11; id <= 14; ++id) scheduler.add(text_of(0, id, 9));
  EXPECT_EQ(scheduler.admit(), 3) << "two as who has few texts, and the third leaves 5 of 32 pages";
  scheduler.remove(13);
  scheduler.remove(14);
  scheduler.add(text_of(0, 15, 12));
  EXPECT_EQ(scheduler.admit(), 0) << "14 pages are free, of which 4 are for others";
  scheduler.add(text_of(1, 16, 12));
  EXPECT_EQ(scheduler.admit(), 1);
  EXPECT_EQ(scheduler.running().back()->id, 16u);
}

TEST(SharedPlaces, OfOnePlaceOrOneClientKeepNone) {
  EXPECT_TRUE((SharedPlaces{1, true}).may_take(0, 5));
  EXPECT_FALSE((SharedPlaces{2, true}).may_take(1, 1));
  EXPECT_TRUE((SharedPlaces{2, true}).may_take(1, 0));
  EXPECT_TRUE((SharedPlaces{2, false}).may_take(1, 1));
  EXPECT_FALSE((SharedPlaces{2, true}).may_take(2, 0));
}

}  // namespace
}  // namespace pimoe
