#include "base/progress.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

namespace pimoe {
namespace {

Progress now() { return read_progress(ProgressSlot::kTraining); }

TEST(ProgressGroup, KnowsRanksThatLieInARow) {
  const ProgressGroup group = ProgressGroup::of("expert replica", {1, 3, 5});
  for (const int rank : {1, 3, 5}) EXPECT_TRUE(group.has(rank)) << rank;
  for (const int rank : {-1, 0, 2, 4, 6, 7}) EXPECT_FALSE(group.has(rank)) << rank;
  EXPECT_TRUE(ProgressGroup::of("self", {4}).has(4));
}

TEST(ProgressGroup, DoesNotKnowOthers) {
  const ProgressGroup group = ProgressGroup::of("odd", {0, 1, 3});
  EXPECT_EQ(group.size, 3);
  for (const int rank : {0, 1, 2, 3}) EXPECT_FALSE(group.has(rank)) << rank;
}

TEST(ProgressGroup, CutsALongNameAndKeepsItsEnd) {
  EXPECT_EQ(std::string(ProgressGroup::of(std::string(100, 'x'), {0}).name.data()), std::string(31, 'x'));
}

TEST(Progress, PhasesNestAndTheOuterOneGoesOn) {
  const ProgressPhase outer("outer");
  {
    const ProgressPhase inner("inner");
    progress_layer(3);
    EXPECT_STREQ(now().phase.data(), "inner");
    EXPECT_EQ(now().layer, 3);
  }
  EXPECT_STREQ(now().phase.data(), "outer");
  EXPECT_EQ(now().layer, -1);
}

TEST(Progress, EachMarkMoves) {
  const uint64_t before = now().moves;
  progress_step(12);
  EXPECT_EQ(now().moves, before + 1);
  EXPECT_EQ(now().step, 12);
  progress_tick();
  EXPECT_EQ(now().moves, before + 2);
}

TEST(Progress, ACollectiveIsCountedInItsGroupAndRemembered) {
  const ProgressCounter dense{ProgressGroup::of("dense", {0, 1, 2, 3})};
  const ProgressCounter expert{ProgressGroup::of("expert", {0, 1})};
  const uint64_t position = now().position();
  { const ProgressCollective first("all_reduce", dense); }
  EXPECT_EQ(now().position(), position + 2);
  { const ProgressCollective other("all_to_all", expert); }
  {
    const ProgressCollective second("all_gather", dense);
    EXPECT_EQ(now().position(), position + 5);
    EXPECT_EQ(now().inside, 1);
    EXPECT_EQ(now().sequence, 2U);
    EXPECT_STREQ(now().collective.data(), "all_gather");
    EXPECT_EQ(now().group, dense.group);
  }
  EXPECT_EQ(now().inside, 0);
  EXPECT_STREQ(now().collective.data(), "all_gather");
  EXPECT_EQ(now().position(), position + 6);
}

TEST(Progress, AnExceptionIsRememberedWhereItWasThrown) {
  const ProgressCounter dense{ProgressGroup::of("dense", {0, 1})};
  try {
    const ProgressPhase outer("outer");
    const ProgressPhase inner("inner");
    const ProgressCollective collective("barrier", dense);
    throw 1;
  } catch (int) {
  }
  EXPECT_STREQ(progress_at_exception().phase.data(), "inner");
  EXPECT_EQ(progress_at_exception().inside, 1);
  try {
    const ProgressPhase other("other");
    throw 2;
  } catch (int) {
  }
  EXPECT_STREQ(progress_at_exception().phase.data(), "other");
  EXPECT_EQ(progress_at_exception().inside, 0);
}

TEST(Progress, PatienceNests) {
  EXPECT_EQ(now().patient, 0);
  {
    const PatientOperation outer;
    { const PatientOperation inner; }
    EXPECT_EQ(now().patient, 1);
  }
  EXPECT_EQ(now().patient, 0);
}

TEST(Progress, AThreadBesideTrainingHasASlotOfItsOwn) {
  const Progress before = now();
  std::thread([] {
    const ProgressOfThread beside(ProgressSlot::kWriter);
    const ProgressPhase phase("save");
    progress_step(7);
    EXPECT_STREQ(read_progress(ProgressSlot::kWriter).phase.data(), "save");
  }).join();
  EXPECT_EQ(now().moves, before.moves);
  EXPECT_EQ(read_progress(ProgressSlot::kWriter).step, 7);
  EXPECT_STREQ(read_progress(ProgressSlot::kWriter).phase.data(), "");
}

TEST(Progress, AThreadThatWorksAheadLeavesTrainingsMarksAlone) {
  const Progress before = now();
  std::thread([] {
    const ProgressOfThread ahead(ProgressSlot::kAhead);
    const PatientOperation on_a_file;
    progress_tick();
  }).join();
  EXPECT_EQ(now().moves, before.moves);
  EXPECT_EQ(now().thread, before.thread);
}

TEST(Progress, AnyThreadOfTrainingsMarksThroughTheSameSlot) {
  const uint64_t before = now().moves;
  std::thread([] { progress_tick(); }).join();
  EXPECT_EQ(now().moves, before + 1);
}

}  // namespace
}  // namespace pimoe
