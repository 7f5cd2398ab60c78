/// `pimoe report` and `pimoe top` as a user meets them, over runs that were really trained.

#include "app/user.h"

#include <cmath>
#include <csignal>
#include <map>

namespace pimoe {
namespace {

class Report : public User {
 protected:
  nlohmann::json data_of(const std::string& page) const {
    const std::string text = read_file(folder_ / page);
    const std::string mark = "<script type=\"application/json\" id=\"data\">";
    const size_t begin = text.find(mark);
    EXPECT_NE(begin, std::string::npos);
    return nlohmann::json::parse(text.substr(begin + mark.size(), text.find("</script>", begin) - begin - mark.size()));
  }
};

TEST_F(Report, HasEverySeriesOfARunThatWasResumedAndNeedsNoNetwork) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=10").code, 0);
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=20").code, 0);
  const Outcome outcome = run("pimoe report runs/tiny");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("report: runs/tiny/report.html"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("of 20 steps of 1 run"), std::string::npos) << outcome.err;

  const std::string page = read_file(folder_ / "runs/tiny/report.html");
  for (const char* load : {"src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest", "import("}) {
    EXPECT_EQ(page.find(load), std::string::npos) << load;
  }
  const nlohmann::json record = records("runs/tiny").at(19);
  const nlohmann::json shown = data_of("runs/tiny/report.html").at("runs").at(0);
  EXPECT_EQ(shown.at("state"), "complete");
  EXPECT_TRUE(shown.at("notes").empty()) << shown.at("notes");
  for (const char* key : {"loss",          "grad_norm",        "learning_rate",    "tokens_per_second",
                          "step_seconds",  "forward_ms",       "backward_ms",      "gradients_ms",
                          "memory_bytes",  "moe/maxvio",       "moe/maxvio_worst", "moe/maxvio_rank_worst",
                          "moe/entropy",   "moe/balance_loss", "moe/z_loss",       "moe/dead_experts",
                          "moe/bias_min",  "moe/bias_max",     "moe/dispatch_ms",  "moe/experts_ms",
                          "moe/combine_ms"}) {
    ASSERT_TRUE(shown.at("curves").contains(key)) << key;
    const nlohmann::json& points = shown.at("curves").at(key);
    ASSERT_EQ(points.size(), 40u) << key;
    EXPECT_EQ(points.at(38), 20) << key;
    const double value = record.at(key);
    EXPECT_NEAR(points.at(39).get<double>(), value, 1e-5 * std::abs(value)) << key;
  }
  EXPECT_EQ(shown.at("loads").size(), 2u);
  EXPECT_EQ(shown.at("loads").at(0).at("experts"), 4);
  EXPECT_EQ(shown.at("loads").at(0).at("columns"), 20);
  std::map<std::string, int> kinds;
  for (const nlohmann::json& event : shown.at("events")) ++kinds[event.at(2)];
  EXPECT_EQ(kinds["start"], 1);
  EXPECT_EQ(kinds["resume"], 1);
  EXPECT_EQ(kinds["complete"], 2);
  EXPECT_EQ(kinds["saved"], 4) << "at 5, 10, 15 and 20";
}

TEST_F(Report, PutsRunsSideBySide) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=3 run.directory=runs/a optimizer.learning_rate=0.002").code, 0);
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=3 run.directory=runs/b").code, 0);
  ASSERT_EQ(run("pimoe report runs/a runs/b --output both.html").code, 0);
  const nlohmann::json data = data_of("both.html");
  ASSERT_EQ(data.at("runs").size(), 2u);
  EXPECT_EQ(data.at("runs").at(1).at("name"), "b");
  EXPECT_EQ(data.at("differences"),
            nlohmann::json::parse(R"([["run.directory","runs/a","runs/b"],["optimizer.learning_rate","0.002","0.001"]])"));
}

TEST_F(Report, SaysWhatIsNoRunAndWhatCannotBeRead) {
  std::filesystem::create_directories(folder_ / "nothing");
  Outcome outcome = run("pimoe report nothing");
  EXPECT_EQ(outcome.code, 65);
  EXPECT_NE(outcome.err.find("nothing is no run folder: it has neither metrics.jsonl nor events.jsonl nor config.yaml"), std::string::npos)
      << outcome.err;
  EXPECT_EQ(run("pimoe report missing").code, 65);
  EXPECT_EQ(run("pimoe top missing").code, 65);
  write("empty/metrics.jsonl", "");
  outcome = run("pimoe report empty");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_NE(outcome.err.find("metrics.jsonl is empty"), std::string::npos) << outcome.err;
  std::filesystem::create_directories(folder_ / "odd");
  ASSERT_EQ(run("mkfifo odd/metrics.jsonl").code, 0);
  outcome = run("timeout 20 $PIMOE report odd");
  EXPECT_EQ(outcome.code, 74) << outcome.err;
}

TEST_F(Report, OfARunThatGoesOnTellsWhatIsThere) {
  prepare();
  const pid_t training = start("$PIMOE train tiny.yaml train.steps=100000 checkpoint.every_steps=1000");
  wait_for_step("runs/tiny", 5);
  Outcome outcome = run("pimoe report runs/tiny --output live.html");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(data_of("live.html").at("runs").at(0).at("state"), "running");
  outcome = run("pimoe top runs/tiny --once");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(outcome.out.starts_with("tiny  running")) << outcome.out;
  EXPECT_NE(outcome.out.find("/100,000"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("  1 rank, "), std::string::npos) << outcome.out;
  EXPECT_EQ(outcome.out.find('\033'), std::string::npos) << "an escape without a terminal";
  outcome = run("pimoe top runs/tiny --json");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json.at("state"), "running");
  EXPECT_EQ(json.at("steps"), 100'000);
  EXPECT_EQ(json.at("step"), json.at("last").at("step"));
  EXPECT_GT(json.at("seconds_left"), 0.0);
  kill(-training, SIGKILL);
  wait_for(training);
}

}  // namespace
}  // namespace pimoe
