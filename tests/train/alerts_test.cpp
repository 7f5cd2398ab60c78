#include "train/alerts.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "support/temporary_folder.h"
#include "train/webhook_sink.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <limits>

namespace pimoe {
namespace {

class AlertsTest : public ::testing::Test {
 protected:
  AlertPlaces places(const std::string& webhook = "") const {
    return {.state = folder_.path() / "alerts.json",
            .lines = folder_.path() / "alerts.jsonl",
            .unsent = folder_.path() / "unsent.jsonl",
            .webhook = webhook,
            .source = "run-7"};
  }
  Alerts alerts(std::vector<std::string> actions, const std::string& webhook = "", const std::string& when = "loss > 2") {
    return Alerts({{.when = when, .actions = std::move(actions)}}, places(webhook), {{"loss", "other"}, "docs/metrics.md"}, log_);
  }
  static size_t changes(Alerts& alerts, std::vector<double> losses) {
    size_t count = 0;
    int64_t step = 0;
    for (const double loss : losses) {
      ++step;
      count += alerts.observe(step, static_cast<double>(step), {{"other", 9.0}, {"loss", loss}}).size();
    }
    return count;
  }

  TemporaryFolder folder_;
  Logger log_{1};
};

TEST_F(AlertsTest, WriteALineWhenTheyFireAndWhenTheyClear) {
  Alerts alerts = this->alerts({"file"});
  EXPECT_EQ(changes(alerts, {1, 3, 4, 1}), 2u);
  const std::vector<std::string> lines = split(read_file(folder_.path() / "alerts.jsonl"), '\n');
  ASSERT_EQ(lines.size(), 3u) << "the last is empty";
  const auto fired = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(fired["state"], "firing");
  EXPECT_EQ(fired["step"], 2);
  EXPECT_EQ(fired["rule"], "loss > 2");
  EXPECT_EQ(fired["value"], 3.0);
  EXPECT_EQ(fired["source"], "run-7");
  EXPECT_EQ(nlohmann::json::parse(lines[1])["state"], "cleared");
  EXPECT_FALSE(alerts.stops());
}

TEST_F(AlertsTest, SayValuesToPeopleInSixDigitsAndToProgramsInAll) {
  Alerts alerts = this->alerts({"file"});
  EXPECT_EQ(alerts.observe(7, 7, {{"loss", 1234567.0 / 3}}).at(0).text, "alert fired at step 7: loss > 2 (loss is 411522)");
  const auto line = nlohmann::json::parse(split(read_file(folder_.path() / "alerts.jsonl"), '\n').at(0));
  EXPECT_EQ(line["value"], 1234567.0 / 3);
  Alerts finite = this->alerts({"log"}, "", "other is not finite");
  EXPECT_EQ(finite.observe(1, 1, {{"other", -std::numeric_limits<double>::quiet_NaN()}}).at(0).text,
            "alert fired at step 1: other is not finite (other is nan)");
}

TEST_F(AlertsTest, AreToldOnceAcrossARestart) {
  {
    Alerts first = alerts({"file"});
    EXPECT_EQ(changes(first, {3}), 1u);
  }
  Alerts second = alerts({"file"});
  EXPECT_EQ(second.firing(), std::vector<std::string>{"loss > 2"});
  EXPECT_EQ(changes(second, {3, 3, 1}), 1u) << "only that it is over";
  Alerts third = alerts({"file"});
  EXPECT_EQ(changes(third, {1, 1}), 0u);
}

TEST_F(AlertsTest, LeaveAValueThatIsNotThereAlone) {
  Alerts alerts = this->alerts({"file"}, "", "loss > 2 for 2 steps");
  EXPECT_TRUE(alerts.observe(1, 1, {{"loss", 3.0}}).empty());
  EXPECT_TRUE(alerts.observe(2, 2, {{"other", 3.0}}).empty());
  EXPECT_EQ(alerts.observe(3, 3, {{"loss", 3.0}}).size(), 1u);
}

TEST_F(AlertsTest, StopTheRunWhereTheyAreTo) {
  Alerts alerts = this->alerts({"stop"});
  EXPECT_EQ(changes(alerts, {1}), 0u);
  EXPECT_FALSE(alerts.stops());
  EXPECT_EQ(changes(alerts, {3}), 1u);
  EXPECT_TRUE(alerts.stops());
  Alerts after = this->alerts({"stop"});
  EXPECT_EQ(changes(after, {3}), 0u);
  EXPECT_FALSE(after.stops()) << "the one that stopped it has been told of: the run may go on";
}

TEST_F(AlertsTest, TakeADamagedStateForNone) {
  for (const char* content : {"", "[", "[]", "{}", R"({"firing": 3})", R"({"firing": [3]})"}) {
    write_durably(folder_.path() / "alerts.json", content, std::string(content).size());
    Alerts alerts = this->alerts({"file"});
    EXPECT_TRUE(alerts.firing().empty()) << content;
  }
}

TEST_F(AlertsTest, ReachTheWebhookInOrder) {
  WebhookSink sink;
  {
    Alerts alerts = this->alerts({"webhook"}, sink.url());
    EXPECT_EQ(changes(alerts, {3, 1, 3}), 3u);
  }
  ASSERT_TRUE(sink.comes_to(3));
  EXPECT_EQ(nlohmann::json::parse(sink.bodies()[0])["state"], "firing");
  EXPECT_EQ(nlohmann::json::parse(sink.bodies()[1])["state"], "cleared");
  EXPECT_FALSE(is_there(folder_.path() / "unsent.jsonl"));
}

TEST_F(AlertsTest, WaitForASinkThatIsDownAndDelayNobody) {
  WebhookSink sink;
  sink.answer(500);
  Alerts alerts = this->alerts({"webhook"}, sink.url());
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_EQ(changes(alerts, {3, 1}), 2u);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5)) << "nobody waits for the answer, nor for the next try";
  EXPECT_EQ(split(read_file(folder_.path() / "unsent.jsonl"), '\n').size(), 3u);
  sink.answer(200);
  EXPECT_TRUE(sink.comes_to(2));
}

TEST_F(AlertsTest, AreSentByTheNextProcessWhereTheSinkWasDown) {
  WebhookSink sink;
  sink.answer(503);
  {
    Alerts alerts = this->alerts({"webhook"}, sink.url());
    EXPECT_EQ(changes(alerts, {3}), 1u);
  }
  EXPECT_TRUE(is_there(folder_.path() / "unsent.jsonl"));
  sink.answer(200);
  Alerts next = alerts({"webhook"}, sink.url());
  EXPECT_TRUE(sink.comes_to(1));
}

}  // namespace
}  // namespace pimoe
