#include "base/config_fields.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/config_sample.h"
#include "base/errors.h"

namespace pimoe {
namespace {

TEST(LoadFields, NothingGivenLeavesTheDefaults) {
  for (const char* yaml : {"", "\n\n", "# a comment\n", "---\n", "~\n", "{}\n", "model:\n", "model:\n  moe:\n", "model: {}\n"}) {
    EXPECT_EQ(loaded(yaml), SampleConfig()) << "'" << yaml << "'";
  }
}

TEST(LoadFields, EveryKindOfFieldIsRead) {
  const SampleConfig config = loaded(R"(
run:
  directory: "runs/first run"
  deterministic: true
mesh: {expert_parallel: 4}
model:
  layers: 12
  moe: {experts: 16, choices: 3}
optimizer:
  learning_rate: 1e-4
  schedule: linear
)");
  EXPECT_EQ(config.run.directory, "runs/first run");
  EXPECT_TRUE(config.run.deterministic);
  EXPECT_EQ(config.mesh.expert_parallel, 4);
  EXPECT_EQ(config.model.layers, 12);
  EXPECT_EQ(config.model.moe.experts, 16);
  EXPECT_EQ(config.model.moe.choices, 3);
  EXPECT_EQ(config.optimizer.learning_rate, 1e-4);
  EXPECT_EQ(config.optimizer.schedule, Schedule::kLinear);
  EXPECT_EQ(config.model.name, "small") << "a field that is not in the file keeps its default";
}

TEST(LoadFields, NumbersMayBeWrittenInAnyPlainWay) {
  const std::vector<std::pair<std::string, double>> table = {
      {"5", 5}, {"0.001", 0.001}, {"1e-3", 1e-3}, {"1E+2", 100},    {".5", 0.5},     {"5.", 5},
      {"0", 0}, {"0.0", 0},       {"-3", -3},     {"-0.25", -0.25}, {"1e-07", 1e-7}, {"123456789012345678", 123456789012345678.0}};
  for (const auto& [text, value] : table) EXPECT_EQ(loaded("optimizer: {offset: " + text + "}").optimizer.offset, value) << text;
}

TEST(LoadFields, IntegersKeepAll64Bits) {
  EXPECT_EQ(loaded("run: {seed: 9223372036854775807}").run.seed, INT64_MAX);
  EXPECT_EQ(loaded("run: {seed: -9223372036854775808}").run.seed, INT64_MIN);
  EXPECT_EQ(loaded("run: {seed: 0}").run.seed, 0);
  EXPECT_EQ(loaded("run: {seed: -0}").run.seed, 0);
}

TEST(LoadFields, AutoIsStoredAsZero) {
  EXPECT_EQ(loaded("mesh: {expert_parallel: 8}", {"mesh.expert_parallel=auto"}).mesh.expert_parallel, 0);
  EXPECT_EQ(loaded("mesh: {expert_parallel: auto}").mesh.expert_parallel, 0);
}

TEST(LoadFields, TextIsTakenAsItIsWritten) {
  const auto name = [](const std::string& value) { return loaded("model: {name: " + value + "}").model.name; };
  EXPECT_EQ(name("plain words"), "plain words");
  EXPECT_EQ(name("'it''s'"), "it's");
  EXPECT_EQ(name("\"\""), "");
  EXPECT_EQ(name("\"null\""), "null");
  EXPECT_EQ(name("true"), "true");
  EXPECT_EQ(name("010"), "010");
  EXPECT_EQ(name("1_000"), "1_000");
  EXPECT_EQ(loaded("model:\n  name: |\n    two\n    lines\n").model.name, "two\nlines\n");
}

TEST(LoadFields, LineEndsOfWindowsAndAByteOrderMarkAreRead) {
  EXPECT_EQ(loaded("model:\r\n  layers: 3\r\n  name: x\r\n").model.layers, 3);
  EXPECT_EQ(loaded("\xEF\xBB\xBFmodel:\n  layers: 3\n").model.layers, 3);
}

TEST(LoadFields, OverridesComeAfterTheFile) {
  const SampleConfig config = loaded("model: {layers: 12, moe: {experts: 16}}", {"model.layers=3", "optimizer.schedule=linear"});
  EXPECT_EQ(config.model.layers, 3);
  EXPECT_EQ(config.model.moe.experts, 16);
  EXPECT_EQ(config.optimizer.schedule, Schedule::kLinear);
}

TEST(LoadFields, LastOverrideOfAKeyHolds) { EXPECT_EQ(loaded("", {"model.layers=3", "model.layers=4"}).model.layers, 4); }

TEST(LoadFields, OverrideIsTakenAsItStandsOrWhollyInQuotes) {
  EXPECT_EQ(loaded("", {"model.name=\"a: b\""}).model.name, "a: b");
  EXPECT_EQ(loaded("", {"model.name='it''s'"}).model.name, "it's");
  EXPECT_EQ(loaded("", {"model.name= spaces around "}).model.name, " spaces around ");
  EXPECT_EQ(loaded("", {"run.directory=/tmp/a #b"}).run.directory, "/tmp/a #b");
  EXPECT_EQ(loaded("", {"run.directory=two\nlines"}).run.directory, "two\nlines");
  EXPECT_EQ(loaded("", {"model.name=a=b"}).model.name, "a=b");
  EXPECT_EQ(loaded("", {"model.name=/data/x.y:z"}).model.name, "/data/x.y:z");
}

TEST(LoadFields, OverrideWithNothingBehindTheEqualsSignIsTheEmptyText) {
  EXPECT_EQ(loaded("", {"run.directory="}).run.directory, "");
  EXPECT_EQ(loaded("", {"model.name="}).model.name, "");
}

TEST(LoadFields, OriginsSayWhereEachValueCameFrom) {
  SampleConfig config;
  const ConfigOrigins origins = load_fields("model:\n  layers: 12\n  moe: {experts: 16, choices: 4}\n", "configs/a.yaml",
                                            {"model.moe.experts=32"}, [&](FieldVisitor& visit) { config.fields(visit); });
  EXPECT_EQ(origins.of("model.layers"), "configs/a.yaml:2:11");
  EXPECT_EQ(origins.of("model.moe.choices"), "configs/a.yaml:3:31");
  EXPECT_EQ(origins.of("model.moe.experts"), "command line");
  EXPECT_EQ(origins.of("model.name"), "");
}

TEST(LoadFields, ReadsAFile) {
  const auto path = std::filesystem::temp_directory_path() / "pimoe-config-fields-test.yaml";
  std::ofstream(path) << "model: {layers: 7}\n";
  SampleConfig config;
  const ConfigOrigins origins = load_fields({read_config_source(path)}, {}, [&](FieldVisitor& visit) { config.fields(visit); });
  std::filesystem::remove(path);
  EXPECT_EQ(config.model.layers, 7);
  EXPECT_EQ(origins.of("model.layers"), path.string() + ":1:17");
}

TEST(LoadFields, FileThatCannotBeReadIsAConfigErrorWithItsName) {
  for (const char* path : {"/nonexistent/a.yaml", "/tmp"}) {
    try {
      read_config_source(path);
      ADD_FAILURE() << "no ConfigError for " << path;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
}

TEST(LoadFields, LaterSourcesAreStrongerAndTheCommandLineIsTheStrongest) {
  SampleConfig config;
  const ConfigOrigins origins = load_fields({{"model: {layers: 2, name: weak, moe: {experts: 3}}", "preset small"},
                                             {"", "nothing.yaml"},
                                             {"model: {name: strong}\nrun: {seed: 5}", "a.yaml"}},
                                            {"model.moe.experts=4"}, [&](FieldVisitor& visit) { config.fields(visit); });
  EXPECT_EQ(config.model.layers, 2);
  EXPECT_EQ(config.model.name, "strong");
  EXPECT_EQ(config.model.moe.experts, 4);
  EXPECT_EQ(config.run.seed, 5);
  EXPECT_EQ(origins.of("model.layers"), "preset small:1:17");
  EXPECT_EQ(origins.of("model.name"), "a.yaml:1:15");
  EXPECT_EQ(origins.of("model.moe.experts"), "command line");
}

TEST(PeekText, GivesWhatTheStrongestSourceSays) {
  const ConfigSource file{"first: a\nother: {second: b}\nthird: [c]\n", "a.yaml"};
  EXPECT_EQ(peek_text({file}, {}, "first"), "a");
  EXPECT_EQ(peek_text({file, {"first: z", "b.yaml"}}, {}, "first"), "z");
  EXPECT_EQ(peek_text({file}, {"first=x", "first=y"}, "first"), "y");
  EXPECT_EQ(peek_text({file}, {"first="}, "first"), "");
  EXPECT_EQ(peek_text({file}, {"other.first=x"}, "first"), "a");
}

TEST(PeekText, GivesNothingForWhatIsNotOnePlainValueAtTheTop) {
  const ConfigSource file{"first:\nother: {second: b}\nthird: [c]\n", "a.yaml"};
  for (const char* key : {"first", "other", "second", "third", "fourth"}) EXPECT_EQ(peek_text({file}, {}, key), std::nullopt) << key;
  EXPECT_EQ(peek_text({{"first: {", "a.yaml"}}, {"=", "x"}, "first"), std::nullopt) << "errors are for load_fields to report";
}

TEST(Refuse, PutsTheOriginBeforeEachViolation) {
  SampleConfig config;
  const ConfigOrigins origins =
      load_fields("model: {moe: {experts: 8}}", "a.yaml", {"mesh.expert_parallel=3"}, [&](FieldVisitor& visit) { config.fields(visit); });
  Violations violations;
  refuse(violations, origins);
  violations.add("model.moe.experts", "(8) must be divisible by mesh.expert_parallel (3)");
  violations.add("mesh.expert_parallel", "no such count here");
  violations.add("run.seed", "(1234) is unlucky");
  try {
    refuse(violations, origins);
    FAIL() << "no ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "a.yaml:1:24: model.moe.experts (8) must be divisible by mesh.expert_parallel (3)\n"
                 "command line: mesh.expert_parallel: no such count here\n"
                 "run.seed (1234) is unlucky");
  }
}

}  // namespace
}  // namespace pimoe
