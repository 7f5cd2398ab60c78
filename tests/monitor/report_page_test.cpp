#include "monitor/report_page.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "monitor/run_summary.h"
#include "support/temporary_folder.h"
#include "train/train_config.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace pimoe {
namespace {

using Json = nlohmann::json;

/// Two layers of three experts: in layer 4 the third has no slot.
std::string record(int64_t step, double loss, const std::string& more = "") {
  return concat(R"({"step":)", step, R"(,"loss":)", loss, R"(,"grad_norm":1.5,"learning_rate":0.001,"skipped":false,"tokens":)", step * 100,
                R"(,"step_seconds":0.5,"tokens_per_second":200.0,"mfu":null,"moe/layers":[3,4],"moe/maxvio":0.25,"moe/maxvio_worst":0.5,)",
                R"("moe/maxvio_layers":[0.0,0.5],"moe/load":[[10,10,10],[10,20,0]])", more, "}\n");
}

struct RunFolder {
  RunFolder() {
    TrainConfig config;
    config.data.train = "corpus";
    config.model.vocabulary = 100;
    folder.write("config.yaml", to_yaml(config));
  }
  RunRecord read() const { return read_run(folder.path(), {}, {}); }
  TemporaryFolder folder;
};

/// The data that a page would draw.
Json data_of(const std::vector<RunRecord>& runs) {
  const std::string page = to_page(runs, 1e9);
  const std::string mark = "<script type=\"application/json\" id=\"data\">";
  const size_t begin = page.find(mark) + mark.size();
  return Json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

TEST(RunRecordTest, HasCurvesMapsAndEventsOfWholeRecords) {
  const RunFolder run;
  run.folder.write("metrics.jsonl", record(1, 4.0) + record(2, 3.0, R"(,"validation_loss":3.5,"alarms":["<b>look</b>"])") +
                                        R"({"step":3,"loss":null,"skipped":true,"skipped_because":"not finite"})" + "\n" +
                                        R"({"step":4,"loss":null,"skipped":true,"skipped_because":"not finite"})" + "\n");
  run.folder.write("events.jsonl", R"({"time":10.0,"step":9,"event":"complete"})"
                                   "\n"
                                   R"({"time":11.0,"step":0,"event":"start","ranks":4})"
                                   "\n"
                                   R"({"time":12.0,"step":2,"event":"rolled_back","from":5})"
                                   "\n");
  const RunRecord read = run.read();
  EXPECT_TRUE(read.notes.empty()) << join(read.notes, "; ");
  EXPECT_EQ(read.records, 4);
  EXPECT_EQ(read.skipped, 2);
  EXPECT_NE(read.state, RunState::kComplete) << "that was a run before the newest start from scratch";
  const Json data = data_of({read}).at("runs").at(0);
  EXPECT_EQ(data.at("curves").at("loss"), Json::parse("[1,4,2,3,3,null,4,null]"));
  EXPECT_EQ(data.at("curves").at("validation_loss"), Json::parse("[2,3.5]"));
  EXPECT_FALSE(data.at("curves").contains("mfu")) << "it is unknown";
  EXPECT_EQ(data.at("layers"), Json::parse("[3,4]"));
  EXPECT_EQ(data.at("maps").at("moe/maxvio").at("rows"), Json::parse("[[0,0],[0.5,0.5]]"));
  // Three experts by two steps. Even: the middle of 1 to 254, rounded. 20 of a mean of 10: log2 is 1, (1 + 4) / 8 x 253 + 1 = 159; none: 0
  EXPECT_EQ(data.at("loads").at(0).at("cells"), "gICAgICA");
  EXPECT_EQ(data.at("loads").at(1).at("cells"), "gICfnwAA");
  std::string events;
  for (const Json& event : data.at("events"))
    events += concat(event[0].get<int64_t>(), "-", event[1].get<int64_t>(), " ", event[2].get<std::string>(), "; ");
  EXPECT_EQ(events, "0-0 start; 2-2 rolled_back; 2-2 alarm; 3-4 skipped; ");
}

TEST(RunRecordTest, LeavesOutWhatIsDamagedAndSaysSo) {
  const RunFolder run;
  run.folder.write("metrics.jsonl", record(1, 4.0) + "no record\n{\"loss\": 1}\n" + record(2, 3.0) + R"({"step":3,"lo)");
  run.folder.write("config.yaml", "nonsense: [");
  run.folder.write("events.jsonl", "{}\n");
  const RunRecord read = run.read();
  EXPECT_EQ(read.records, 2);
  ASSERT_EQ(read.notes.size(), 4u) << join(read.notes, "\n");
  EXPECT_TRUE(read.notes[0].starts_with("config.yaml could not be read")) << read.notes[0];
  EXPECT_EQ(read.notes[1], "metrics.jsonl is damaged: 2 lines are no record of a step, and left out");
  EXPECT_EQ(read.notes[2], "the last line of metrics.jsonl has no end: it is being written, or a kill has cut it");
  EXPECT_EQ(read.notes[3], "events.jsonl is damaged: 1 line is no event, and left out");
}

// Curves have a place for each stretch of steps: none may be asked for 1e12 of them.
TEST(RunRecordTest, AWildStepAsksForNoMemory) {
  const RunFolder run;
  run.folder.write("metrics.jsonl",
                   record(1, 4.0) + record(1'000'000'000'000, 3.0) + record(2, 3.0) + "{\"step\":9223372036854775807,\"loss\":2}\n");
  const RunRecord read = run.read();
  EXPECT_EQ(read.records, 2);
  ASSERT_FALSE(read.notes.empty());
  EXPECT_EQ(read.notes[0], "metrics.jsonl is damaged: 2 lines are no record of a step, and left out");
}

TEST(RunRecordTest, OfAnEmptyRunSaysThatAndOfNoRunIsAnError) {
  const RunFolder run;
  run.folder.write("metrics.jsonl", "");
  EXPECT_EQ(run.read().notes, std::vector<std::string>{"metrics.jsonl is empty: no step has been recorded yet"});
  EXPECT_EQ(data_of({run.read()}).at("runs").at(0).at("state"), "empty");
  const TemporaryFolder nothing;
  EXPECT_THROW(read_run(nothing.path(), {}, {}), DataError);
  EXPECT_THROW(read_run(nothing.path() / "missing", {}, {}), DataError);
}

TEST(ReportPage, LoadsNothingFromElsewhereAndIsNotLedByNames) {
  const RunFolder run;
  run.folder.write("metrics.jsonl", record(1, 4.0, R"(,"alarms":["</script><script>alert(1)</script>","@TITLE@ @DATA@"])"));
  RunRecord read = run.read();
  read.name = "<img onerror=alert(1)>";
  const std::string page = to_page({read}, 1e9);
  EXPECT_EQ(page.find("<script>alert"), std::string::npos);
  EXPECT_EQ(page.find("<img"), std::string::npos);
  for (const char* mark : {"@STYLE@", "@CHARTS@", "@SCRIPT@"}) EXPECT_EQ(page.find(mark), std::string::npos) << mark;
  for (const char* load : {"src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest"})
    EXPECT_EQ(page.find(load), std::string::npos) << load;
  EXPECT_NE(page.find("<title>&lt;img onerror"), std::string::npos);
  EXPECT_EQ(data_of({read}).at("runs").at(0).at("events").at(1).at(3), "@TITLE@ @DATA@");
}

TEST(ReportPage, TellsRunsOfOneNameApartAndListsWhatDiffersInTheirConfigurations) {
  const RunFolder first;
  const RunFolder second;
  TrainConfig config;
  config.data.train = "corpus";
  config.model.vocabulary = 100;
  config.optimizer.learning_rate = 0.5;
  second.folder.write("config.yaml", to_yaml(config));
  std::vector<RunRecord> runs = {first.read(), second.read()};
  runs[0].name = runs[1].name = "same";
  const Json data = data_of(runs);
  EXPECT_EQ(data.at("differences"), Json::parse(R"([["optimizer.learning_rate","0.001","0.5"]])"));
  EXPECT_EQ(data.at("runs").at(1).at("name"), second.folder.path().string());
}

TEST(ReportPage, ARunWhoseConfigurationCannotBeReadDiffersInNoKey) {
  const RunFolder first;
  const RunFolder second;
  second.folder.write("config.yaml", "model: {layers: many}\n");
  second.folder.write("metrics.jsonl", record(1, 4.0));
  EXPECT_EQ(data_of({first.read(), second.read()}).at("differences"), Json::array());
}

// A step of 0.5 s with 100 tokens, and one of 1.5 s with 1,500. Two like the last one would have given 1,500 a second.
TEST(RunSummary, AverageThroughputIsOfAllTokensAndAllTime) {
  const RunFolder run;
  run.folder.write("metrics.jsonl",
                   concat(record(1, 4.0), R"({"step":2,"loss":3.0,"tokens":400,"step_seconds":1.5,"tokens_per_second":1000.0})", "\n"));
  const SummaryLines lines = run_summary(run.read());
  const auto line = std::find_if(lines.begin(), lines.end(), [](const auto& each) { return each.first == "Throughput"; });
  ASSERT_NE(line, lines.end());
  EXPECT_EQ(line->second, "800 tok/s on average");  // (100 + 1500) / 2
}

TEST(ReportPage, ShowsOfAWebhookWhatIsNoPassword) {
  const RunFolder run;
  TrainConfig config;
  config.data.train = "corpus";
  config.model.vocabulary = 100;
  config.monitor.webhook = "https://hooks.example.com/T000/secret";
  run.folder.write("config.yaml", to_yaml(config));
  const std::string page = to_page({run.read()}, 1e9);
  EXPECT_NE(page.find("https://hooks.example.com"), std::string::npos);
  EXPECT_EQ(page.find("secret"), std::string::npos);
}

}  // namespace
}  // namespace pimoe
