#include "train/phase_times.h"

#include "base/errors.h"
#include "train/step_profile.h"

#include <gtest/gtest.h>

#include <map>

namespace pimoe {
namespace {

using Kind = TraceEvent::Kind;

TraceEvent host(Kind kind, const std::string& name, int64_t begin_ms, int64_t end_ms, uint64_t correlation = 0, uint64_t thread = 1) {
  TraceEvent event;
  event.kind = kind;
  event.name = name;
  event.thread = thread;
  event.begin = begin_ms * 1'000'000;
  event.end = end_ms * 1'000'000;
  event.correlation = correlation;
  return event;
}

TraceEvent node(int64_t sequence, int64_t begin_ms, int64_t end_ms, uint64_t correlation = 0, uint64_t thread = 1) {
  TraceEvent event = host(Kind::kBackward, "autograd::engine::evaluate_function: X", begin_ms, end_ms, correlation, thread);
  event.forward_thread = 1;
  event.sequence = sequence;
  return event;
}

TraceEvent kernel(int64_t begin_ms, int64_t end_ms, uint64_t launched_by) {
  return host(Kind::kDevice, "kernel", begin_ms, end_ms, launched_by, 0);
}

std::map<std::string, PhaseTime> by_name(const std::vector<PhaseTime>& times) {
  std::map<std::string, PhaseTime> named;
  for (const PhaseTime& time : times) named[time.phase + "/" + time.part] = time;
  return named;
}

// A step of 100 ms: forward 10..50 with two layers' ranges, backward 50..90, 5 ms that nothing names, the update.
std::vector<TraceEvent> one_step() {
  return {
      host(Kind::kRange, "ProfilerStep#3", 0, 100),
      host(Kind::kRange, "forward", 10, 50),
      host(Kind::kRange, "attention", 12, 22),
      host(Kind::kOperation, "cudaLaunchKernel", 13, 20, 5),
      host(Kind::kRange, "experts", 22, 40),
      host(Kind::kOperation, "mm", 23, 33, 6),
      host(Kind::kRange, "backward", 50, 90),
      node(7, 52, 72, 8),
      node(2, 72, 85, 9),
      host(Kind::kOperation, "mm", 73, 80, 10),
      host(Kind::kRange, "optimizer", 95, 100),
  };
}

const std::vector<NodesOfRange> kNodes = {{"attention", 1, 1, 4}, {"experts", 1, 4, 8}, {"forward", 1, 1, 9}};

TEST(PhaseTimes, TimeIsTheInnermostRangesAndAddsUp) {
  const auto times = by_name(phase_times(one_step(), kNodes));
  EXPECT_DOUBLE_EQ(times.at("forward/attention").host, 10);
  EXPECT_DOUBLE_EQ(times.at("forward/experts").host, 18);
  EXPECT_DOUBLE_EQ(times.at("forward/").host, 12);
  EXPECT_DOUBLE_EQ(times.at("optimizer/").host, 5);
  EXPECT_DOUBLE_EQ(times.at("other/").host, 15);
  double all = 0;
  for (const auto& [name, time] : times) all += time.host;
  EXPECT_DOUBLE_EQ(all, 100);
}

TEST(PhaseTimes, BackwardIsCountedForTheRangeThatMadeItsNodes) {
  const auto times = by_name(phase_times(one_step(), kNodes));
  EXPECT_DOUBLE_EQ(times.at("backward/experts").host, 20);
  EXPECT_DOUBLE_EQ(times.at("backward/attention").host, 13);
  EXPECT_DOUBLE_EQ(times.at("backward/").host, 7);
}

TEST(PhaseTimes, ANodeBetweenTwoInnerRangesIsTheOuterOnes) {
  std::vector<NodesOfRange> nodes = kNodes;
  nodes.push_back({"block", 1, 1, 9});
  nodes.push_back({"forward", 1, 0, 10});
  const std::vector<TraceEvent> events = {host(Kind::kRange, "backward", 0, 30), node(8, 1, 9), node(9, 10, 20), node(77, 20, 21)};
  const auto times = by_name(phase_times(events, nodes));
  EXPECT_DOUBLE_EQ(times.at("backward/block").host, 8);
  EXPECT_DOUBLE_EQ(times.at("backward/").host, 22) << "a phase is no part of another";
}

TEST(PhaseTimes, WhatRunsAgainInBackwardIsCountedThere) {
  const auto times = by_name(phase_times(
      {host(Kind::kRange, "backward", 0, 10), node(7, 0, 10), host(Kind::kRange, "dispatch", 1, 4), host(Kind::kOperation, "mm", 2, 3)},
      kNodes));
  EXPECT_DOUBLE_EQ(times.at("backward/dispatch").host, 3);
  EXPECT_DOUBLE_EQ(times.at("backward/experts").host, 7);
}

TEST(PhaseTimes, AutogradsOwnThreadIsBackward) {
  const auto times =
      by_name(phase_times({host(Kind::kRange, "backward", 0, 10), node(7, 1, 6, 3, /*thread=*/2), kernel(20, 23, 3)}, kNodes));
  EXPECT_DOUBLE_EQ(times.at("backward/experts").host, 5);
  EXPECT_DOUBLE_EQ(times.at("backward/experts").device, 3);
}

TEST(PhaseTimes, KernelsBelongToWhoeverLaunchedThem) {
  std::vector<TraceEvent> events = one_step();
  for (const TraceEvent& event : {kernel(14, 30, 5), kernel(30, 60, 6), kernel(60, 99, 8), kernel(99, 110, 10), kernel(110, 111, 12345)}) {
    events.push_back(event);
  }
  const auto times = by_name(phase_times(events, kNodes));
  EXPECT_DOUBLE_EQ(times.at("forward/attention").device, 16);
  EXPECT_DOUBLE_EQ(times.at("forward/experts").device, 30);
  EXPECT_DOUBLE_EQ(times.at("backward/experts").device, 39);
  EXPECT_DOUBLE_EQ(times.at("backward/attention").device, 11);
  EXPECT_DOUBLE_EQ(times.at("other/").device, 1);
  EXPECT_DOUBLE_EQ(device_busy(events), 97);
}

TEST(PhaseTimes, OverlappingKernelsAreBusyOnce) {
  EXPECT_DOUBLE_EQ(device_busy({kernel(0, 10, 0), kernel(5, 8, 0), kernel(9, 15, 0), kernel(20, 21, 0)}), 16);
  EXPECT_DOUBLE_EQ(device_busy({}), 0);
}

TEST(PhaseTimes, TheTableHasARowForEachPhaseAndPart) {
  const std::vector<PhaseTime> times = phase_times(one_step(), kNodes);
  const std::vector<std::string> lines = phase_table({times, times}, 2);
  EXPECT_EQ(lines[0], "ms a step                 rank 0    rank 1");
  EXPECT_EQ(lines[1], "forward                    20.00     20.00");
  EXPECT_EQ(lines[2], "  attention                 5.00      5.00");
  EXPECT_EQ(lines[lines.size() - 2], "other                       7.50      7.50");
  EXPECT_EQ(lines.back(), "all                        50.00     50.00");
}

TEST(PhaseTimes, OfManyRanksTheTableNamesTheSlowest) {
  std::vector<std::vector<PhaseTime>> ranks(12, {{"forward", "", 10, 0}});
  ranks[7][0].host = 22;
  const std::vector<std::string> lines = phase_table(ranks, 1);
  EXPECT_NE(lines[1].find("10.00     11.00     22.00   rank 7"), std::string::npos) << lines[1];
}

TEST(ProfileRequest, TakesARangeOneStepAndMemory) {
  const ProfileRequest range = ProfileRequest::parse("steps=10:12,memory");
  EXPECT_EQ(range.first, 10);
  EXPECT_EQ(range.last, 12);
  EXPECT_TRUE(range.memory);
  EXPECT_EQ(ProfileRequest::parse("steps=4").last, 4);
  EXPECT_FALSE(ProfileRequest::parse("steps=4").memory);
}

TEST(ProfileRequest, RefusesTheRestByName) {
  for (const char* text : {"", "10:12", "steps=", "steps=12:10", "steps=0:3", "steps=a:3", "steps=1:2:3", "steps=1:9999", "steps=1:2,gpu",
                           "memory", "steps=1:99999999999999999999", "steps=-1:2", "steps=1:2,"}) {
    EXPECT_THROW(ProfileRequest::parse(text), UsageError) << text;
  }
}

}  // namespace
}  // namespace pimoe
