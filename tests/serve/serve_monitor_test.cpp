#include "serve/serve_monitor.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "support/temporary_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace pimoe {
namespace {

class ScriptedNumbers : public CompletionSource {
 public:
  uint64_t submit(GenerationRequest, GenerationListener) override { return 0; }
  void cancel(uint64_t) override {}
  std::vector<Number> numbers() const override { return {}; }
  State state() const override { return now; }
  std::vector<double> expert_shares() const override { return {}; }
  int64_t most_tokens() const override { return 1; }
  int64_t step() const override { return 0; }

  State now;
};

std::optional<double> value_of(const Scalars& values, const std::string& name) {
  const auto found = std::find_if(values.begin(), values.end(), [&](const auto& value) { return value.first == name; });
  return found == values.end() ? std::nullopt : std::optional<double>(found->second);
}

TEST(CompletionMetrics, TellWhatHappenedSinceTheLastLook) {
  CompletionMetrics metrics;
  ScriptedNumbers source;
  source.now.generated_tokens = 100;
  metrics.count_request("completions", 200);
  metrics.saw_first_token(0.2);
  metrics.saw_first_token(0.4);
  Scalars values = metrics.since_last(source, 2.0);
  EXPECT_DOUBLE_EQ(*value_of(values, "first_token_seconds"), 0.3);
  EXPECT_DOUBLE_EQ(*value_of(values, "first_token_seconds_p99"), 0.5) << "the bound of its bucket";
  EXPECT_EQ(value_of(values, "next_token_seconds"), std::nullopt) << "there was none";
  EXPECT_DOUBLE_EQ(*value_of(values, "tokens_per_second"), 50.0);
  EXPECT_DOUBLE_EQ(*value_of(values, "requests_per_second"), 0.5);
  EXPECT_DOUBLE_EQ(*value_of(values, "error_share"), 0.0);

  metrics.count_request("completions", 503);
  metrics.count_request("completions", 404);
  metrics.saw_next_token(1000.0);
  source.now.generated_tokens = 103;
  source.now.waiting = 5;
  values = metrics.since_last(source, 1.0);
  EXPECT_EQ(value_of(values, "first_token_seconds"), std::nullopt);
  EXPECT_EQ(*value_of(values, "next_token_seconds_p99"), std::numeric_limits<double>::infinity()) << "beyond the last bound";
  EXPECT_DOUBLE_EQ(*value_of(values, "tokens_per_second"), 3.0);
  EXPECT_DOUBLE_EQ(*value_of(values, "error_share"), 0.5) << "a client's mistake is none of the server's";
  EXPECT_DOUBLE_EQ(*value_of(values, "texts_waiting"), 5.0);
  EXPECT_EQ(value_of(metrics.since_last(source, 1.0), "error_share"), std::nullopt) << "of no request";
  const std::vector<std::string> names = service_metric_names();
  for (const auto& [name, value] : values) EXPECT_TRUE(std::find(names.begin(), names.end(), name) != names.end()) << name;
}

TEST(CompletionMetrics, ExpertsAreThoseThatGotASlotSinceTheLastLook) {
  CompletionMetrics metrics;
  ScriptedNumbers source;
  const auto used = [&](std::vector<int64_t> slots) {
    source.now.expert_slots = std::move(slots);
    return value_of(metrics.since_last(source, 1.0), "moe/utilization");
  };
  EXPECT_EQ(used({}), std::nullopt) << "a model without experts, or that nobody has asked yet";
  EXPECT_EQ(used({0, 0, 0, 0}), std::nullopt) << "no alert in an idle server's first second";
  EXPECT_EQ(used({5, 3, 1, 1}), 1.0);
  EXPECT_EQ(used({5, 3, 1, 1}), std::nullopt) << "nothing was computed";
  EXPECT_EQ(used({9, 3, 1, 1}), 0.25) << "whatever came earlier";
  EXPECT_EQ(used({2, 2, 0, 0}), 0.5) << "of another checkpoint, which counts anew";
}

TEST(CompletionMetrics, MemoryIsWhatTheSourceUsesNow) {
  CompletionMetrics metrics;
  ScriptedNumbers source;
  for (const int64_t bytes : {5000, 3000}) {
    source.now.memory_bytes = bytes;
    EXPECT_EQ(value_of(metrics.since_last(source, 1.0), "memory_bytes"), static_cast<double>(bytes));
  }
}

class ServeMonitorTest : public ::testing::Test {
 protected:
  ServeMonitorConfig read(const std::string& yaml) const {
    write_durably(folder_.path() / "monitor.yaml", yaml.data(), yaml.size());
    return read_serve_monitor(folder_.path() / "monitor.yaml");
  }
  TemporaryFolder folder_;
  Logger log_{1};
};

TEST_F(ServeMonitorTest, FiresOnceAndStops) {
  ServeMonitor monitor(read("monitor: {alerts: [{when: \"texts_waiting > 2\", do: [log, stop]}]}"), "m", log_);
  double waiting = 1.0;
  int looks = 0;
  const auto values = [&] {
    ++looks;
    return Scalars{{"texts_waiting", waiting}};
  };
  monitor.look(values);
  monitor.look(values);
  EXPECT_EQ(looks, 1) << "a second has not gone by";
  EXPECT_FALSE(monitor.stops());
  waiting = 3.0;
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  monitor.look(values);
  EXPECT_TRUE(monitor.stops());
}

TEST_F(ServeMonitorTest, SaysAfterHowManySecondsSomethingWas) {
  ServeMonitor monitor(
      read(concat("monitor: {folder: ", folder_.path().string(), ", alerts: [{when: \"texts_waiting > 2\", do: [file]}]}")), "m", log_);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  monitor.look([] { return Scalars{{"texts_waiting", 3.0}}; });
  const std::string told = read_file(folder_.path() / "alerts.jsonl");
  EXPECT_NE(told.find("alert fired at second "), std::string::npos) << told;
  EXPECT_EQ(told.find("at second 0"), std::string::npos) << told;
}

TEST_F(ServeMonitorTest, NamesTheFolderThatItCannotMake) {
  const std::filesystem::path file = folder_.write("taken", "");
  try {
    ServeMonitor monitor(read(concat("monitor: {folder: ", (file / "alerts").string(), ", alerts: [{when: \"texts_waiting > 2\"}]}")), "m",
                         log_);
    FAIL();
  } catch (const IoError& error) {
    EXPECT_EQ(std::string(error.what()).find("monitor.folder ("), 0u) << error.what();
  }
}

TEST_F(ServeMonitorTest, RefusesWhatCannotBe) {
  EXPECT_THROW(read("monitor: {alerts: [{when: \"loss > 2\"}]}"), ConfigError) << "no number of a server";
  EXPECT_THROW(read("monitor: {alerts: [{when: \"texts_waiting > 2\", do: [file]}]}"), ConfigError) << "no folder";
  EXPECT_THROW(read("monitor: {alerts: [{when: \"texts_waiting > 2\", do: [webhook]}], folder: x}"), ConfigError) << "no URL";
  EXPECT_THROW(read("alerts: []"), ConfigError);
  EXPECT_EQ(read("monitor: {}").alerts.size(), 0u);
}

}  // namespace
}  // namespace pimoe
