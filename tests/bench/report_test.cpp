#include "bench/report.h"

#include "base/errors.h"
#include "base/text.h"
#include "bench/suites.h"

#include <gtest/gtest.h>

#include <set>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

BenchFacts some_facts() {
  return {.version = "0.1.0",
          .commit = "2ba79dc",
          .command = "pimoe bench layer",
          .machine = {{"device", "A CPU"},
                      {"ranks", 2},
                      {"hosts", 1},
                      {"threads", 1},
                      {"transport", "MPI"},
                      {"precision", "bfloat16"},
                      {"expert_parallel", 2}},
          .config = "model: {}\n"};
}

std::vector<BenchRow> some_rows() {
  BenchRow row{.suite = "layer", .name = "balanced", .seconds = Spread{0.00241, 0.00238, 0.00255, 40}};
  row.values["tflops"] = 0.74;
  row.summary = "740 GFLOP/s, 83 % of gemm";
  row.details = {"forward 8.11 ms"};
  return {row};
}

TEST(BenchText, KeepsThreeDigitsAndSaysTheUnit) {
  EXPECT_EQ(si_text(8.9e11, "FLOP/s"), "890 GFLOP/s");
  EXPECT_EQ(si_text(9.996e11, "FLOP/s"), "1.00 TFLOP/s");
  EXPECT_EQ(si_text(12.34, "B/s"), "12.3 B/s");
}

TEST(BenchJson, HoldsWhatRanWhereAndEveryRow) {
  const Json document = to_json(some_facts(), some_rows());
  for (const char* key : {"version", "commit", "command", "machine", "config", "rows"}) EXPECT_TRUE(document.contains(key)) << key;
  EXPECT_EQ(document.at("rows").at(0), Json({{"suite", "layer"},
                                             {"name", "balanced"},
                                             {"median_seconds", 0.00241},
                                             {"low_seconds", 0.00238},
                                             {"high_seconds", 0.00255},
                                             {"repetitions", 40},
                                             {"tflops", 0.74}}));
}

TEST(BenchTable, HasALineForEachRowUnderItsSuite) {
  const std::string table = to_text(some_facts(), some_rows());
  EXPECT_NE(table.find("pimoe 0.1.0 (2ba79dc): A CPU\n2 ranks on 1 host, 1 thread each, MPI, bfloat16, experts shared out over 2\n"),
            std::string::npos)
      << table;
  EXPECT_NE(
      table.find("layer\n  balanced                 2.41 ms    2.38 ms .. 2.55 ms  740 GFLOP/s, 83 % of gemm\n      forward 8.11 ms\n"),
      std::string::npos)
      << table;
}

TEST(Suites, HaveDistinctNamesAndAllIsEveryOne) {
  std::set<std::string> names;
  for (const Suite& suite : all_suites()) names.insert(suite.name);
  EXPECT_EQ(names, (std::set<std::string>{"ceilings", "layer", "model", "dispatch", "optimizer", "checkpoint", "data", "scaling"}));
  EXPECT_EQ(suites_named("all").size(), names.size());
  EXPECT_STREQ(suites_named("layer").at(0).name, "layer");
}

TEST(Suites, AnUnknownOneIsRefusedWithTheNearest) {
  try {
    suites_named("modle");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("'modle': did you mean 'model'?"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace pimoe
