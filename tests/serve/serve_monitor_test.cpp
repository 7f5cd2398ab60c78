#include "serve/serve_monitor.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "support/temporary_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>
#include <thread>

namespace pimoe {
namespace {

class ScriptedNumbers : public CompletionSource {
 public:
  uint64_t submit(GenerationRequest, GenerationListener) override { return 0; }
  void cancel(uint64_t) override {}
  std::vector<Number> numbers() const override {
    return {{"texts_waiting", "", waiting}, {"engine_generated_tokens_total", "", generated}, {"pages", "", 7.0}};
  }
  std::vector<double> expert_shares() const override { return {0.5, 0.5, 0.0, 0.0}; }
  int64_t most_tokens() const override { return 1; }
  int64_t step() const override { return 0; }

  double waiting = 0.0;
  double generated = 0.0;
};

std::optional<double> value_of(const Scalars& values, const std::string& name) {
  const auto found = std::find_if(values.begin(), values.end(), [&](const auto& value) { return value.first == name; });
  return found == values.end() ? std::nullopt : std::optional<double>(found->second);
}

TEST(CompletionMetrics, TellWhatHappenedSinceTheLastLook) {
  CompletionMetrics metrics;
  ScriptedNumbers source;
  source.generated = 100;
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
  EXPECT_DOUBLE_EQ(*value_of(values, "moe/utilization"), 0.5);

  metrics.count_request("completions", 503);
  metrics.count_request("completions", 404);
  metrics.saw_next_token(1000.0);
  source.generated = 103;
  source.waiting = 5;
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

TEST_F(ServeMonitorTest, RefusesWhatCannotBe) {
  EXPECT_THROW(read("monitor: {alerts: [{when: \"loss > 2\"}]}"), ConfigError) << "no number of a server";
  EXPECT_THROW(read("monitor: {alerts: [{when: \"texts_waiting > 2\", do: [file]}]}"), ConfigError) << "no folder";
  EXPECT_THROW(read("monitor: {alerts: [{when: \"texts_waiting > 2\", do: [webhook]}], folder: x}"), ConfigError) << "no URL";
  EXPECT_THROW(read("alerts: []"), ConfigError);
  EXPECT_EQ(read("monitor: {}").alerts.size(), 0u);
}

}  // namespace
}  // namespace pimoe
