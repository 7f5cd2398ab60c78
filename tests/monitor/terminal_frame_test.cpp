#include "monitor/terminal_frame.h"

#include "base/text.h"
#include "monitor/terminal_line.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

using Json = nlohmann::json;

RunStatus status_of(int64_t layers) {
  RunStatus status;
  status.name = "quick";
  status.steps = 400;
  status.now = 1000;
  for (int64_t step = 1; step <= 100; ++step) {
    Json record = {{"step", step},           {"loss", 5.0 - 0.01 * static_cast<double>(step)},
                   {"grad_norm", 1.0},       {"learning_rate", 1e-3},
                   {"step_seconds", 0.5},    {"tokens_per_second", 8000.0},
                   {"mfu", nullptr},         {"memory_bytes", 2e9},
                   {"moe/maxvio", 0.4},      {"moe/maxvio_worst", 0.9},
                   {"moe/dispatch_ms", 1.0}, {"moe/experts_ms", 2.0},
                   {"moe/combine_ms", 3.0}};
    for (int64_t layer = 0; layer < layers; ++layer) {
      record["moe/layers"].push_back(layer);
      record["moe/maxvio_layers"].push_back(layer == 7 ? 0.9 : 0.1);
      record["moe/dead_experts_layers"].push_back(layer == 7 ? 2 : 0);
    }
    status.records.push_back(record);
  }
  status.events = {{{"time", 900.0}, {"step", 0}, {"event", "start"}, {"ranks", 2}, {"transport", "MPI"}, {"precision", "float32"}},
                   {{"time", 990.0}, {"step", 100}, {"event", "save"}}};
  return status;
}

TEST(TerminalFrame, TellsProgressTimeLeftAndTheSaveUnderWay) {
  const std::string frame = to_frame(status_of(8), {80, 24}, false);
  EXPECT_NE(frame.find("quick  running"), std::string::npos) << frame;
  EXPECT_NE(frame.find("step 100/400"), std::string::npos) << frame;
  EXPECT_NE(frame.find("25 %  left 2m 30s"), std::string::npos) << frame;
  EXPECT_NE(frame.find("save of step 100 in progress, 10s"), std::string::npos) << frame;
  EXPECT_NE(frame.find("8,000 tok/s"), std::string::npos) << frame;
  EXPECT_NE(frame.find("2 dead experts"), std::string::npos) << frame;
  EXPECT_EQ(frame.find('\033'), std::string::npos) << "an escape without a terminal";
}

TEST(TerminalFrame, ALongNameLeavesRoomForWhatTheRunDoes) {
  RunStatus status = status_of(8);
  status.name = "a-name-that-is-longer-than-the-screen-of-forty-columns";
  EXPECT_NE(to_frame(status, {40, 24}, false).find("a-name-that-is-longer-than-the…  running"), std::string::npos)
      << to_frame(status, {40, 24}, false);
}

TEST(TerminalFrame, AnAlarmSaysItsStepOnce) {
  RunStatus status = status_of(8);
  status.records.back()["alarms"] = {"step 100: layer 1: expert 2 had no slot in 10 steps"};
  EXPECT_NE(to_frame(status, {80, 40}, false).find("step 100  layer 1: expert 2"), std::string::npos) << to_frame(status, {80, 40}, false);
}

TEST(TerminalFrame, FitsEveryScreen) {
  for (const int64_t layers : {0, 4, 60}) {
    for (const TerminalSize size : {TerminalSize{40, 10}, {80, 24}, {200, 60}, {80, 3}}) {
      const std::string frame = to_frame(status_of(layers), size, false);
      const std::vector<std::string> lines = split(frame, '\n');
      EXPECT_LE(static_cast<int>(lines.size()) - 1, size.rows) << frame;
      for (const std::string& line : lines) EXPECT_LE(width_of(line), size.columns) << line;
    }
  }
}

TEST(TerminalFrame, ShowsTheWorstLayersWhereNotAllHaveRoom) {
  const std::string frame = to_frame(status_of(60), {80, 24}, false);
  EXPECT_NE(frame.find("worst of 60 layers"), std::string::npos) << frame;
  EXPECT_NE(frame.find("  7 █"), std::string::npos) << frame;
}

TEST(TerminalFrame, LetsNoNameDriveTheTerminal) {
  RunStatus status = status_of(2);
  status.name = "a\033[2Jb";
  status.records.back()["alarms"] = {"alarm \033]0;x\007"};
  EXPECT_EQ(to_frame(status, {80, 24}, false).find('\033'), std::string::npos);
}

TEST(TerminalFrame, SaysSilentCompleteAndNothingYet) {
  RunStatus status = status_of(2);
  status.silence = 200;
  EXPECT_NE(to_frame(status, {}, false).find("silent  no step for 3m 20s"), std::string::npos);
  status.events.push_back({{"time", 999.0}, {"step", 400}, {"event", "complete"}});
  EXPECT_NE(to_frame(status, {}, false).find("quick  complete"), std::string::npos);
  RunStatus empty;
  empty.name = "new";
  empty.note = "no step has been recorded yet";
  EXPECT_EQ(to_frame(empty, {}, false), "new  empty\nno step has been recorded yet\n");
}

}  // namespace
}  // namespace pimoe
