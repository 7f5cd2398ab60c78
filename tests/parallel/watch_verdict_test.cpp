#include "parallel/watch_verdict.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace pimoe {
namespace {

using Kind = Verdict::Kind;
constexpr double kLimit = 3.0;

ProgressGroup row(const char* name, int first, int stride, int size) {
  std::vector<int> ranks;
  for (int index = 0; index < size; ++index) ranks.push_back(first + index * stride);
  return ProgressGroup::of(name, ranks);
}

/// Ranks with a clock of their own. Every rank has made `calls` collectives, and is in training.
struct Table {
  explicit Table(int count) : ranks(static_cast<size_t>(count)) {
    for (int rank = 0; rank < count; ++rank) {
      RankView& view = at(rank);
      view.name.rank = rank;
      view.name.pid = 100 + rank;
      std::snprintf(view.name.host.data(), view.name.host.size(), "node%d", rank / 2);
      set(rank, "forward", 10, /*inside=*/false, row("dense", 0, 1, count));
    }
    pass(0.0);
  }

  RankView& at(int rank) { return ranks[static_cast<size_t>(rank)]; }
  Progress& progress(int rank, ProgressSlot slot = ProgressSlot::kTraining) { return beats[rank][static_cast<size_t>(slot)].progress; }

  void set(int rank, const char* phase, uint64_t calls, bool inside, const ProgressGroup& group, const char* collective = "all_reduce",
           ProgressSlot slot = ProgressSlot::kTraining) {
    Progress& record = progress(rank, slot);
    record.moves += 1;
    record.step = 12;
    record.calls = record.sequence = calls;
    record.inside = inside ? 1 : 0;
    record.group = group;
    record.phase = {};
    std::copy_n(phase, std::string(phase).size(), record.phase.begin());
    record.collective = {};
    std::copy_n(collective, std::string(collective).size(), record.collective.begin());
  }

  /// Time goes by, with heartbeats of all ranks but those that are `silent`; threads of the ranks in `asleep` use no processor.
  void pass(double seconds, const std::vector<int>& silent = {}, const std::vector<int>& asleep = {}) {
    const auto in = [](const std::vector<int>& list, int rank) { return std::find(list.begin(), list.end(), rank) != list.end(); };
    for (double left = seconds; left >= 0; left -= 0.25) {
      now += left > 0 ? 0.25 : 0.0;
      for (size_t rank = 0; rank < ranks.size(); ++rank) {
        const int number = static_cast<int>(rank);
        for (SlotBeat& beat : beats[number]) beat.cpu_seconds += in(asleep, number) ? 0.0 : 0.01;
        if (in(silent, number) || ranks[rank].cut_at > 0.0 || ranks[rank].link == RankView::Link::kGoodbye) continue;
        if (!in(unheard, number)) ranks[rank].hear(beats[number], now);
      }
    }
  }

  void cut(int rank, Presence presence) {
    at(rank).cut_at = now;
    at(rank).presence = presence;
  }

  Verdict verdict() const { return judge(ranks, kLimit, now); }
  std::string text() const { return explain(verdict(), ranks, kLimit, now); }

  std::vector<RankView> ranks;
  std::map<int, std::array<SlotBeat, kProgressSlots>> beats;
  std::vector<int> unheard;
  double now = 1000.0;
};

TEST(WatchVerdict, RanksThatMoveAreFine) {
  Table table(4);
  for (uint64_t call = 11; call < 40; ++call) {
    for (int rank = 0; rank < 4; ++rank) table.set(rank, "forward", call, true, row("dense", 0, 1, 4));
    table.pass(2.5);
    EXPECT_EQ(table.verdict().kind, Kind::kFine);
  }
}

TEST(WatchVerdict, ARankWhoseProcessIsGoneIsDeadOnceThoseThatDiedWithItAreKnown) {
  Table table(4);
  for (const int rank : {0, 1, 3}) table.set(rank, "backward", 11, true, row("expert", rank / 2 * 2, 1, 2), "all_to_all");
  table.pass(0.25);
  table.cut(2, Presence::kGone);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.pass(kGatherSeconds);
  EXPECT_EQ(table.verdict().kind, Kind::kDead);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{2});
  EXPECT_EQ(table.text(),
            "dead: rank 2 (node1, process 102), last heard of at step 12, forward, after all_reduce 10 of the dense group of 4: the "
            "process is gone. "
            "waiting: ranks 0, 1, 3 in all_to_all 11 of the expert group of 2");
}

TEST(WatchVerdict, ARankWithoutHeartbeatsIsStoppedOnceTheLimitIsOver) {
  Table table(3);
  table.set(0, "forward", 11, true, row("dense", 0, 1, 3));
  table.pass(kLimit - 0.25, {1});
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.pass(0.5, {1});
  EXPECT_EQ(table.verdict().kind, Kind::kStopped);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{1});
}

TEST(WatchVerdict, ARankThatFellSilentWhileItStartedIsNotSaidToBeThereStill) {
  Table table(2);
  table.at(0).slots[0].last.progress.step = -1;
  table.beats[0][0].progress.step = -1;
  table.set(1, "forward", 11, true, row("dense", 0, 1, 2));
  table.pass(kLimit + 0.25, {0});
  EXPECT_NE(table.text().find("stopped: rank 0 (node0, process 100), last heard of at the start, forward"), std::string::npos)
      << table.text();
  EXPECT_NE(table.text().find("waiting: rank 1 in all_reduce 11 of the dense group of 2, at step 12"), std::string::npos) << table.text();
}

TEST(WatchVerdict, TheRankThatDidNotEnterIsHung) {
  Table table(4);
  for (const int rank : {0, 1, 2}) table.set(rank, "gradients", 11, true, row("dense", 0, 1, 4));
  table.pass(kLimit - 0.25, {}, {3});
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.pass(0.75, {}, {3});
  EXPECT_EQ(table.verdict().kind, Kind::kHung);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{3});
}

TEST(WatchVerdict, TheHindmostIsFoundThroughGroupsThatWaitForGroups) {
  // 3 sleeps; 2 waits for it in their expert group, 0 and 1 are through theirs and wait for 2 in the dense group.
  Table table(4);
  table.set(2, "forward", 11, true, row("expert", 2, 1, 2), "all_to_all");
  for (const int rank : {0, 1}) table.set(rank, "forward", 12, true, row("dense", 0, 1, 4));
  table.pass(kLimit + 0.5, {}, {3});
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{3});
}

TEST(WatchVerdict, ARankThatComputesForLongIsFineUntilPatienceEnds) {
  Table table(2);
  table.set(0, "forward", 11, true, row("dense", 0, 1, 2));
  table.pass(kLimit * kPatience - 1);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.pass(2);
  EXPECT_EQ(table.verdict().kind, Kind::kHung);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{1});
}

TEST(WatchVerdict, ARankThatSleepsInsideACollectiveIsKnownByItsThread) {
  Table table(4);
  for (const int rank : {0, 1, 2, 3}) table.set(rank, "backward", 11, true, row("dense", 0, 1, 4));
  table.pass(kLimit + 0.5, {}, {1});
  EXPECT_EQ(table.verdict().kind, Kind::kHung);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{1});
}

TEST(WatchVerdict, ARankThatSleepsInsideWhatOthersHaveLeftIsBehindThem) {
  Table table(3);
  table.set(0, "save", 11, true, row("world", 0, 1, 3), "broadcast_text");
  for (const int rank : {1, 2}) table.set(rank, "save", 12, true, row("world", 0, 1, 3));
  table.pass(kLimit + 0.5);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{0});
}

TEST(WatchVerdict, WhoCameFirstIntoTheCollectiveOfTheSleeperIsNotNamed) {
  Table table(3);
  table.set(1, "backward", 11, true, row("dense", 0, 1, 3), "all_to_all");
  table.pass(1.0);
  table.set(2, "backward", 11, true, row("dense", 0, 1, 3), "all_to_all");
  table.set(0, "backward", 12, true, row("dense gradient", 0, 1, 3));
  for (double passed = 0; passed < kLimit + 0.5; passed += 0.25) {
    table.pass(0.25, {}, {2});
    const Verdict verdict = table.verdict();
    EXPECT_EQ(verdict.culprits, verdict.kind == Kind::kFine ? std::vector<int>{} : std::vector<int>{2});
  }
  EXPECT_EQ(table.verdict().kind, Kind::kHung);
}

TEST(WatchVerdict, MismatchedCollectivesNameTheOddOne) {
  Table table(4);
  for (const int rank : {0, 1, 3}) table.set(rank, "forward", 11, true, row("dense", 0, 1, 4), "all_reduce");
  table.set(2, "forward", 11, true, row("dense", 0, 1, 4), "all_gather");
  table.pass(kLimit + 0.5);
  EXPECT_EQ(table.verdict().kind, Kind::kMismatch);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{2});
}

TEST(WatchVerdict, AllInOneCollectiveMayBeALongTransfer) {
  Table table(2);
  for (const int rank : {0, 1}) table.set(rank, "gradients", 11, true, row("dense", 0, 1, 2));
  table.pass(kLimit * kPatience - 1);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.pass(2);
  EXPECT_EQ(table.verdict().kind, Kind::kTogether);
}

TEST(WatchVerdict, AllThatComputeForLongAreFineUntilPatienceEnds) {
  Table table(2);
  table.pass(kLimit * kPatience - 1);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.pass(2);
  EXPECT_EQ(table.verdict().kind, Kind::kTogether);
}

TEST(WatchVerdict, ASlowRankThatMakesMarksHoldsNobodyHung) {
  Table table(4);
  for (const int rank : {0, 1, 2}) table.set(rank, "gradients", 11, true, row("dense", 0, 1, 4));
  for (int round = 0; round < 20; ++round) {
    ++table.progress(3).moves;
    table.pass(kLimit - 0.25);
    EXPECT_EQ(table.verdict().kind, Kind::kFine) << round;
  }
}

TEST(WatchVerdict, ALongOperationOnAFileHasPatience) {
  Table table(3);
  table.progress(0).patient = 1;
  for (const int rank : {1, 2}) table.set(rank, "save", 11, true, row("world", 0, 1, 3), "patient_barrier");
  table.pass(kLimit * kPatience - 1);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.pass(2);
  EXPECT_EQ(table.verdict().kind, Kind::kHung);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{0});
}

TEST(WatchVerdict, TheThreadThatSavesIsJudgedBesideTraining) {
  Table table(2);
  table.set(0, "save", 5, false, row("checkpoint writers", 0, 1, 2), "all_gather_text", ProgressSlot::kWriter);
  table.set(1, "save", 6, true, row("checkpoint writers", 0, 1, 2), "patient_barrier", ProgressSlot::kWriter);
  for (int round = 0; round < 8; ++round) {  // training goes on
    for (const int rank : {0, 1}) ++table.progress(rank).moves;
    table.pass(0.5, {}, {0});
  }
  const Verdict verdict = table.verdict();
  EXPECT_EQ(verdict.kind, Kind::kHung);
  EXPECT_EQ(verdict.slot, ProgressSlot::kWriter);
  EXPECT_EQ(verdict.culprits, std::vector<int>{0});
  EXPECT_NE(table.text().find("rank 0 (node0, process 100), the thread that saves, at step 12, save"), std::string::npos) << table.text();
}

TEST(WatchVerdict, AWriterThatHasNotBegunYetIsNoCulprit) {
  Table table(2);
  table.set(1, "save", 1, true, row("checkpoint writers", 0, 1, 2), "patient_barrier", ProgressSlot::kWriter);
  for (int round = 0; round < 8; ++round) {
    for (const int rank : {0, 1}) ++table.progress(rank).moves;
    table.pass(0.5);
    EXPECT_EQ(table.verdict().kind, Kind::kFine);
  }
}

TEST(WatchVerdict, ARankThatIsStillAwaitedIsNotJudgedAndNorAreThoseThatWait) {
  Table table(3);
  table.unheard = {2};
  table.at(2).link = RankView::Link::kAwaited;
  for (const int rank : {0, 1}) table.set(rank, "setup", 11, true, row("world", 0, 1, 3));
  table.pass(kLimit * kPatience + 5);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
}

TEST(WatchVerdict, AGoodbyeEndsTheWatchOfARank) {
  Table table(2);
  table.at(1).link = RankView::Link::kGoodbye;
  table.at(1).heard_at = table.now;
  table.pass(1.0);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.at(0).link = RankView::Link::kGoodbye;
  table.pass(kLimit * kPatience * 2);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
}

TEST(WatchVerdict, ARankThatHangsWhileOthersHaveSaidGoodbyeIsNamed) {
  Table table(2);
  table.at(0).link = RankView::Link::kGoodbye;
  table.at(0).heard_at = table.now;
  table.pass(kLimit + 0.5, {}, {1});
  EXPECT_EQ(table.verdict().kind, Kind::kHung);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{1});
}

TEST(WatchVerdict, AnErrorIsToldAfterAMomentWithItsRankAndPlace) {
  Table table(3);
  table.at(1).error = "data: token 70000 is out of range";
  table.at(1).error_at = table.now;
  table.at(1).exit_code = 65;
  table.set(0, "forward", 11, true, row("dense", 0, 1, 3));
  table.pass(0.5);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.at(2).error = "all_reduce in dense group of 3, rank 2: a peer left";  // a consequence
  table.at(2).error_at = table.now;
  table.pass(1.0);
  EXPECT_EQ(table.verdict().kind, Kind::kError);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{1});
  EXPECT_EQ(
      table.text(),
      "failed: rank 1 (node0, process 101), at step 12, forward, after all_reduce 10 of the dense group of 3: data: token 70000 is out "
      "of range. waiting: rank 0 in all_reduce 11 of the dense group of 3");
}

// It may come back; and if not, what others throw because it is gone is no cause.
TEST(WatchVerdict, NobodyIsBlamedWhileAConnectionIsCut) {
  Table table(3);
  table.at(1).error = "all_reduce in dense group of 3, rank 1: a peer left";
  table.at(1).error_at = table.now;
  table.cut(2, Presence::kUnknown);
  table.pass(1.5);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.at(2).presence = Presence::kGone;
  EXPECT_EQ(table.verdict().kind, Kind::kDead);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{2});
}

// Of a rank that is known to be there the others' errors are no consequence.
TEST(WatchVerdict, AnErrorIsToldWhileARankThatIsThereIsCutOff) {
  Table table(3);
  table.at(1).error = "data: token 70000 is out of range";
  table.at(1).error_at = table.now;
  table.cut(2, Presence::kThere);
  table.pass(1.5);
  EXPECT_EQ(table.verdict().kind, Kind::kError);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{1});
  EXPECT_NE(table.text().find("cut off as well, and there: rank 2 (node1, process 102)"), std::string::npos) << table.text();
}

TEST(WatchVerdict, ARankThatIsCutOffAndCannotBeAskedIsLostAfterItsTimeToReturn) {
  Table table(4);
  table.set(0, "forward", 11, true, row("dense", 0, 1, 4));
  table.cut(2, Presence::kUnknown);
  table.pass(0.25);
  table.cut(3, Presence::kUnknown);
  table.pass(kReturnSeconds - 0.5);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.pass(0.25);
  EXPECT_EQ(table.verdict().kind, Kind::kLost);
  EXPECT_EQ(table.verdict().culprits, (std::vector<int>{2, 3})) << "cut off a moment later, by the same thing";
  EXPECT_NE(table.text().find(
                "lost: rank 2 (node1, process 102), last heard of at step 12, forward, after all_reduce 10 of the dense group of 4; "),
            std::string::npos)
      << table.text();
  EXPECT_NE(table.text().find(
                "its connection closed 2.0 s ago and is not made again, and its machine cannot be asked from here: the process is gone, "
                "or it, its machine or its network stands still. waiting: rank 0 in all_reduce 11"),
            std::string::npos)
      << table.text();
}

TEST(WatchVerdict, ARankThatIsCutOffAndKnownToBeThereIsJudgedByItsHeartbeats) {
  Table table(3);
  table.cut(1, Presence::kStopped);
  table.pass(kLimit - 0.25);
  EXPECT_EQ(table.verdict().kind, Kind::kFine);
  table.pass(0.5);
  EXPECT_EQ(table.verdict().kind, Kind::kStopped);
  EXPECT_EQ(table.verdict().culprits, std::vector<int>{1});
  EXPECT_NE(table.text().find(
                "(its connection closed 3.2 s ago and is not made again; the process is there, stopped by a signal or a debugger): no "
                "heartbeat for 3.2 s (run.hang_limit 3)"),
            std::string::npos)
      << table.text();
}

// It stood still for a while before it fell silent.
TEST(WatchVerdict, ASilentRankIsNotSaidToBeAlive) {
  Table table(2);
  table.set(0, "forward", 11, true, row("dense", 0, 1, 2));
  table.pass(2.0, {}, {1});
  for (double silent = 0.25; silent < kLimit; silent += 0.25) {
    table.pass(0.25, {1}, {1});
    const Kind kind = table.verdict().kind;
    EXPECT_EQ(kind, Kind::kFine) << silent;
  }
  table.pass(0.5, {1}, {1});
  EXPECT_EQ(table.verdict().kind, Kind::kStopped);
}

TEST(WatchVerdict, AnErrorOfAllRanksIsToldOnceAndPlainly) {
  Table table(2);
  for (const int rank : {0, 1}) table.at(rank).error = "the run has diverged";
  EXPECT_EQ(table.verdict().kind, Kind::kErrorOfAll);
  EXPECT_EQ(table.text(), "the run has diverged");
}

TEST(WatchVerdict, ManyRanksAreNamedInFewWords) {
  Table table(64);
  for (int rank = 0; rank < 64; ++rank) {
    if (rank % 16 != 5) table.set(rank, "gradients", 11, true, row("dense", 0, 1, 64));
  }
  table.pass(kLimit + 0.5, {}, {5, 21, 37, 53});
  EXPECT_EQ(table.verdict().culprits, (std::vector<int>{5, 21, 37, 53}));
  EXPECT_NE(table.text().find("waiting: ranks 0-4, 6-20, 22-36, 38-52, 54-63 in all_reduce 11"), std::string::npos) << table.text();
}

}  // namespace
}  // namespace pimoe
