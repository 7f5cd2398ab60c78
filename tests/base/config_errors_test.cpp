/// What load_fields refuses, and in which words.

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "base/config_sample.h"
#include "base/text.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

using Table = std::vector<std::pair<std::string, std::string>>;

TEST(ConfigErrors, AllViolationsAreReportedInTheOrderOfTheFile) {
  const std::string message = complaint(
      "model:\n"
      "  layers: zero\n"
      "  moe: {experts: 0, choices: 3, chioces: 4}\n"
      "optimiser: {learning_rate: 1}\n"
      "run:\n"
      "  seed: 1e3\n"
      "  seed: 5\n",
      {"model.layers=-1", "nonsense", "log.every_step=3"});
  EXPECT_EQ(message,
            "a.yaml:2:11: model.layers: zero must be an integer\n"
            "a.yaml:3:18: model.moe.experts: 0 must be at least 1\n"
            "a.yaml:3:33: model.moe.chioces: unknown key; did you mean model.moe.choices?\n"
            "a.yaml:4:1: optimiser: unknown key; did you mean optimizer?\n"
            "a.yaml:6:9: run.seed: 1e3 must be an integer, written in full: 1000, not 1e3 or 1000.0\n"
            "a.yaml:7:3: run.seed: duplicate key; it is on line 6 already\n"
            "command line: model.layers: -1 must be at least 1\n"
            "command line: nonsense: an override must be key.path=value; there is no '='\n"
            "command line: log.every_step: unknown key; did you mean log.every_steps?");
}

TEST(ConfigErrors, UnknownKeyNamesTheNearestSiblingFirst) {
  EXPECT_EQ(complaint("model: {moe: {expert: 4}}"), "a.yaml:1:15: model.moe.expert: unknown key; did you mean model.moe.experts?");
}

TEST(ConfigErrors, UnknownKeyIsLookedForInTheWholeTree) {
  EXPECT_EQ(complaint("experts: 4"), "a.yaml:1:1: experts: unknown key; did you mean model.moe.experts?");
  EXPECT_EQ(complaint("model: {learning_rates: 4}"),
            "a.yaml:1:9: model.learning_rates: unknown key; did you mean optimizer.learning_rate?");
  EXPECT_EQ(complaint("every_steps: 4"), "a.yaml:1:1: every_steps: unknown key; did you mean checkpoint.every_steps or log.every_steps?");
  EXPECT_EQ(complaint("", {"moe.experts=4"}), "command line: moe: unknown key; did you mean model.moe?");
}

TEST(ConfigErrors, UnknownKeyThatIsLikeNoOtherListsWhatIsKnownThere) {
  EXPECT_EQ(complaint("optimizer: {zzzzzzzz: 4}"),
            "a.yaml:1:13: optimizer.zzzzzzzz: unknown key; known here: learning_rate, beta1, offset, schedule");
}

TEST(ConfigErrors, DottedKeyInAFileIsToBeNested) {
  EXPECT_EQ(complaint("model.moe.experts: 4"),
            "a.yaml:1:1: model.moe.experts: unknown key; write experts on a line of its own under model.moe");
}

TEST(ConfigErrors, IntegersAreStrict) {
  const Table table = {
      {"010", "010 must be written in decimal, without a leading zero"},
      {"-010", "-010 must be written in decimal, without a leading zero"},
      {"0o17", "0o17 must be written in decimal, without a leading zero"},
      {"0x1F", "0x1F must be written in decimal, without a leading zero"},
      {"00", "00 must be written in decimal, without a leading zero"},
      {"1_000", "1_000 must be an integer, written without '_'"},
      {"1e3", "1e3 must be an integer, written in full: 1000, not 1e3 or 1000.0"},
      {"5.0", "5.0 must be an integer, written in full: 1000, not 1e3 or 1000.0"},
      {"true", "true must be an integer"},
      {"1,000", "1,000 must be an integer"},
      {"\"5\"", "\"5\" is text; an integer has no quotes"},
      {"'5'", "\"5\" is text; an integer has no quotes"},
      {"+5", "+5 must be an integer"},
      {"9223372036854775808", "9223372036854775808 does not fit in 64 bits"},
      {"many words", "many words must be an integer"},
      {"!!int 5", "tags (tag:yaml.org,2002:int) are not supported"},
  };
  for (const auto& [text, reason] : table) {
    EXPECT_NE(complaint("run:\n  seed: " + text + "\n").find("a.yaml:2:9: run.seed: " + reason), std::string::npos)
        << text << " gave: " << complaint("run:\n  seed: " + text + "\n");
  }
}

TEST(ConfigErrors, NumbersAreStrictAndFinite) {
  const std::string not_a_number = " must be a finite number, such as 5, 0.001 or 1e-3";
  const Table table = {
      {".nan", ".nan" + not_a_number},
      {".inf", ".inf" + not_a_number},
      {"-.inf", "-.inf" + not_a_number},
      {"nan", "nan" + not_a_number},
      {"inf", "inf" + not_a_number},
      {"1e", "1e" + not_a_number},
      {"e5", "e5" + not_a_number},
      {".", "." + not_a_number},
      {"1.2.3", "1.2.3" + not_a_number},
      {"0x1p3", "0x1p3 must be written in decimal, without a leading zero"},
      {"00.5", "00.5 must be written in decimal, without a leading zero"},
      {"1_0.5", "1_0.5 must be a number, written without '_'"},
      {"1e999", "1e999 is too large or too small for a float64"},
      {"\"0.5\"", "\"0.5\" is text; a number has no quotes"},
  };
  for (const auto& [text, reason] : table) {
    EXPECT_EQ(complaint("optimizer: {offset: " + text + "}"), "a.yaml:1:21: optimizer.offset: " + reason);
  }
}

TEST(ConfigErrors, RangesAreCheckedAtTheirEnds) {
  EXPECT_EQ(complaint("model: {moe: {choices: 1}}"), "");
  EXPECT_EQ(complaint("model: {moe: {choices: 64}}"), "");
  EXPECT_EQ(complaint("model: {moe: {choices: 65}}"), "a.yaml:1:24: model.moe.choices: 65 must be at least 1 and at most 64");
  EXPECT_EQ(complaint("optimizer: {learning_rate: 0}"), "a.yaml:1:28: optimizer.learning_rate: 0 must be above 0");
  EXPECT_EQ(complaint("optimizer: {beta1: 0}"), "");
  EXPECT_EQ(complaint("optimizer: {beta1: 1}"), "a.yaml:1:20: optimizer.beta1: 1 must be at least 0 and below 1");
}

TEST(ConfigErrors, RefusedValueLeavesTheFieldAsItWas) {
  SampleConfig config;
  EXPECT_THROW(load_fields("model: {layers: 0}\noptimizer: {beta1: 2}\n", "a.yaml", {}, [&](FieldVisitor& visit) { config.fields(visit); }),
               ConfigError);
  EXPECT_EQ(config, SampleConfig());
}

TEST(ConfigErrors, IntegerOrAutoTakesNoOtherWord) {
  EXPECT_EQ(complaint("mesh: {expert_parallel: automatic}"),
            "a.yaml:1:25: mesh.expert_parallel: automatic must be an integer (or the word auto)");
  EXPECT_EQ(complaint("mesh: {expert_parallel: 0}"), "a.yaml:1:25: mesh.expert_parallel: 0 must be at least 1 (or the word auto)");
}

TEST(ConfigErrors, FlagsAreTrueOrFalse) {
  for (const char* text : {"yes", "on", "1", "True"}) {
    EXPECT_EQ(complaint(concat("run: {deterministic: ", text, "}")),
              concat("a.yaml:1:22: run.deterministic: ", text, " must be true or false"));
  }
  EXPECT_EQ(complaint("run: {deterministic: \"true\"}"), "a.yaml:1:22: run.deterministic: \"true\" is text; true and false have no quotes");
}

TEST(ConfigErrors, WordOutsideTheTableListsTheTableAndTheNearest) {
  EXPECT_EQ(complaint("optimizer: {schedule: cosin}"),
            "a.yaml:1:23: optimizer.schedule: cosin must be one of cosine, linear, constant; did you mean cosine?");
  EXPECT_EQ(complaint("optimizer: {schedule: zigzagging}"),
            "a.yaml:1:23: optimizer.schedule: zigzagging must be one of cosine, linear, constant");
}

TEST(ConfigErrors, MissingValueIsAnErrorForEveryKindOfField) {
  for (const char* value : {"", " ~", " null"}) {
    for (const char* key : {"run:\n  seed", "run:\n  directory", "run:\n  deterministic", "mesh:\n  expert_parallel", "model:\n  name",
                            "optimizer:\n  beta1", "optimizer:\n  schedule"}) {
      const std::string message = complaint(concat(key, ":", value, "\n"));
      EXPECT_EQ(message.find("a.yaml:2:3: "), 0u) << message;
      EXPECT_NE(message.find("has no value; leave the key out to take the default"), std::string::npos) << message;
    }
  }
}

TEST(ConfigErrors, GroupsAndValuesAreNotEachOther) {
  EXPECT_EQ(complaint("model: 5"), "a.yaml:1:8: model: is a group of keys, not one value");
  EXPECT_EQ(complaint("model: [5]"), "a.yaml:1:8: model: is a group of keys, not one value");
  EXPECT_EQ(complaint("model: {layers: {a: 1}}"), "a.yaml:1:17: model.layers: is one value, not a group of keys");
  EXPECT_EQ(complaint("model: {layers: [1, 2]}"), "a.yaml:1:17: model.layers: is one value, not a list");
  EXPECT_EQ(complaint("", {"model=5"}), "command line: model: is a group of keys, not one value");
  EXPECT_EQ(complaint("", {"model.layers.deep=5"}), "command line: model.layers: is one value, not a group of keys");
}

TEST(ConfigErrors, WholeFileMustBeAMap) {
  const std::string reason = "a configuration must be a map of keys (key: value), not one value or a list";
  EXPECT_EQ(complaint("just words"), "a.yaml:1:1: " + reason);
  EXPECT_EQ(complaint("model:5"), "a.yaml:1:1: " + reason);
  EXPECT_EQ(complaint("\n- model\n- mesh\n"), "a.yaml:2:1: " + reason);
}

TEST(ConfigErrors, DuplicateKeysAreRefusedAtEveryLevel) {
  EXPECT_EQ(complaint("model: {layers: 1}\nmesh: {}\nmodel: {layers: 2}\n"), "a.yaml:3:1: model: duplicate key; it is on line 1 already");
  EXPECT_EQ(complaint("model: {moe: {experts: 1, experts: 1}}"), "a.yaml:1:27: model.moe.experts: duplicate key; it is on line 1 already");
  EXPECT_EQ(complaint("model: {layers: 1, \"layers\": 2}"), "a.yaml:1:20: model.layers: duplicate key; it is on line 1 already");
}

TEST(ConfigErrors, AnchorsAliasesAndMergesAreRefused) {
  EXPECT_EQ(complaint("model: {layers: &n 4}"), "a.yaml:1:17: model.layers: anchors (&name) are not supported");
  EXPECT_EQ(complaint("model: &m {layers: 4}"), "a.yaml:1:8: model: anchors (&name) are not supported");
  EXPECT_EQ(complaint("model: &m\n  layers: 4\nlog: {every_steps: 2}\n"), "a.yaml:1:8: model: anchors (&name) are not supported");
  const std::string merged = complaint("checkpoint: &c {every_steps: 4}\nlog:\n  <<: *c\n  every_steps: 2\n");
  EXPECT_EQ(merged,
            "a.yaml:1:13: checkpoint: anchors (&name) are not supported\n"
            "a.yaml:3:3: log.<<: merges (<<) are not supported; write the keys out\n"
            "a.yaml:3:7: log.<<: aliases (*name) are not supported; write the value out");
  EXPECT_EQ(complaint("log: {<<: {every_steps: 4}}"), "a.yaml:1:7: log.<<: merges (<<) are not supported; write the keys out");
  EXPECT_EQ(complaint("log: {every_steps: *unknown}").find("a.yaml:1:20: not valid YAML: the referenced anchor is not defined"), 0u);
}

TEST(ConfigErrors, TagsAreRefused) {
  EXPECT_EQ(complaint("model: !special {layers: 4}"), "a.yaml:1:8: model: tags (!special) are not supported");
  EXPECT_EQ(complaint("model: {name: !!str 5}"), "a.yaml:1:15: model.name: tags (tag:yaml.org,2002:str) are not supported");
}

TEST(ConfigErrors, KeysMustBeWords) {
  EXPECT_EQ(complaint("? [a, b]\n: 5\n"), "a.yaml:1:3: a key must be a word");
  EXPECT_EQ(complaint("? {a: 1}\n: 5\n"), "a.yaml:1:3: a key must be a word");
  EXPECT_EQ(complaint("~: 5\n"), "a.yaml:1:1: a key must be a word");
  EXPECT_EQ(complaint("\"\": 5\n").find("a.yaml:1:1: "), 0u);
}

TEST(ConfigErrors, SeveralDocumentsAreRefused) {
  EXPECT_EQ(complaint("---\nmodel: {layers: 1}\n---\nmodel: {layers: 2}\n"),
            "a.yaml:3:1: the configuration ends here, and something follows: a second document, or a bracket too many");
  EXPECT_EQ(split(complaint("model: {layers: 0}\n---\n{}\n"), '\n').front(), "a.yaml:1:17: model.layers: 0 must be at least 1");
  EXPECT_EQ(complaint("model: {layers: 1}}\n"), "a.yaml:1:19: not valid YAML: illegal flow end");
  EXPECT_EQ(complaint(", model: {layers: 1}\n").find("a.yaml:1:1: "), 0u);
  EXPECT_EQ(loaded("---\nmodel: {layers: 1}\n...\n").model.layers, 1);
}

TEST(ConfigErrors, BrokenYamlHasItsPlaceAndDoesNotHideTheCommandLine) {
  EXPECT_EQ(complaint("model:\n  layers: 4\n wrong: 5\n", {"model.layer=4"}),
            "a.yaml:3:2: not valid YAML: end of map not found\n"
            "command line: model.layer: unknown key; did you mean model.layers?");
  EXPECT_EQ(complaint("model: {layers: 4").find("a.yaml:1:"), 0u);
  EXPECT_EQ(complaint("model:\n\tlayers: 4\n"), "a.yaml:2:8: not valid YAML: illegal map value");
  EXPECT_EQ(complaint("a: b: c").find("a.yaml:1:5: "), 0u);
  EXPECT_EQ(complaint("name: \"open").find("a.yaml:1:"), 0u);
}

TEST(ConfigErrors, BadOverridesAreRefused) {
  const Table table = {
      {"model.layers", "model.layers: an override must be key.path=value; there is no '='"},
      {"=5", "=5: an override must be key.path=value; a key is empty"},
      {".layers=5", ".layers=5: an override must be key.path=value; a key is empty"},
      {"model..layers=5", "model..layers=5: an override must be key.path=value; a key is empty"},
      {"model.=5", "model.=5: an override must be key.path=value; a key is empty"},
      {"", ": an override must be key.path=value; there is no '='"},
      {"modle.layers=5", "modle: unknown key; did you mean model?"},
      {"model.layers=010", "model.layers: 010 must be written in decimal, without a leading zero"},
      {"model.layers={a: 1}", "model.layers: {a: 1} is a map; an override sets one value or a whole list (put text with ': ' in quotes)"},
      {"model.name=a: b", "model.name: a: b is a map; an override sets one value or a whole list (put text with ': ' in quotes)"},
      {"model={layers: 1}", "model: {layers: 1} is a map; an override sets one value or a whole list (put text with ': ' in quotes)"},
      {"model.layers=[1]", "model.layers: is one value, not a list"},
      {"model=[]", "model: is a group of keys, not one value"},
      {"model.layers=[1", "model.layers: not valid YAML: end of sequence flow not found"},
      {"model.layers=~", "model.layers: has no value; leave the key out to take the default"},
      {"model.layers=", "model.layers: \"\" is text; an integer has no quotes"},
      {"model.layers=5 #x", "model.layers: 5 #x must be an integer"},
      {"model.name='a' #b", "model.name: 'a' #b must be one value, plain or wholly in quotes"},
      {"model.name=|\n a", "model.name: |\\x0a a must be one value, plain or wholly in quotes"},
      {"model.layers=&a 5", "model.layers: anchors (&name) are not supported"},
  };
  for (const auto& [override_text, reason] : table) {
    EXPECT_EQ(complaint("", {override_text}), "command line: " + (override_text.empty() ? reason.substr(2) : reason));
  }
}

TEST(ConfigErrors, OneKeyIsNotBothValueAndGroup) {
  EXPECT_EQ(complaint("", {"log.every_steps=5", "log.every_steps.deep=6"}),
            "command line: log.every_steps.deep: is set both as one value and as a group of keys");
  EXPECT_EQ(complaint("", {"log.every_steps=5", "log=6"}), "command line: log: is set both as one value and as a group of keys");
}

TEST(ConfigErrors, EachSourceIsComplainedAboutInItsOrderOfStrength) {
  SampleConfig config;
  try {
    load_fields({{"log: {every_step: 1}\nmodel: {layers: 0}", "preset small"}, {"model:\n  layers: 0", "a.yaml"}}, {"run.seed=x"},
                [&](FieldVisitor& visit) { config.fields(visit); });
    FAIL() << "no ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "preset small:1:7: log.every_step: unknown key; did you mean log.every_steps?\n"
                 "preset small:2:17: model.layers: 0 must be at least 1\n"
                 "a.yaml:2:11: model.layers: 0 must be at least 1\n"
                 "command line: run.seed: x must be an integer");
  }
}

TEST(ConfigErrors, FileIsWrongEvenWhereTheCommandLineIsRight) {
  EXPECT_EQ(complaint("model: {layers: 0}", {"model.layers=4"}), "a.yaml:1:17: model.layers: 0 must be at least 1");
}

TEST(ConfigErrors, DeepNestingIsAnErrorAndNoCrash) {
  for (const char* opening : {"[", "{a: ", "- ", "? "}) {
    std::string yaml = "model: ";
    if (opening[0] == '-' || opening[0] == '?') yaml.clear();
    for (int i = 0; i < 100'000; ++i) yaml += opening;
    EXPECT_EQ(complaint(yaml).find("a.yaml:1:"), 0u) << "100,000 times '" << opening << "'";
    EXPECT_NE(complaint("", {"model.name=" + yaml}), "");
  }
}

TEST(ConfigErrors, AFolderIsNoFileAndTheRunInItHasOne) {
  const TemporaryFolder folder;
  const std::string name = folder.path().string();
  const auto said = [&] {
    try {
      read_config_source(folder.path());
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(said(), concat("configuration: ", name, " is a folder, and must be a file of YAML"));
  folder.write("config.yaml", "");
  EXPECT_EQ(said(),
            concat("configuration: ", name, " is a folder, and must be a file of YAML: ", name, "/config.yaml is that of the run in it"));
}

TEST(ConfigErrors, HugeFileIsRefusedByItsSize) {
  EXPECT_EQ(complaint(std::string(2'000'000, '#')), "a.yaml:1:1: has 2,000,000 bytes; a configuration has at most 1,048,576");
}

TEST(ConfigErrors, ThousandsOfProblemsAreCutShort) {
  std::string yaml;
  for (int i = 0; i < 20'000; ++i) yaml += concat("key", i, ": 1\n");
  const std::vector<std::string> lines = split(complaint(yaml), '\n');
  ASSERT_EQ(lines.size(), 101u);
  EXPECT_EQ(lines.back(), "and 19900 more");
}

TEST(ConfigErrors, ControlCharactersAreRefused) {
  EXPECT_EQ(complaint("model:\n  layers: 4\n  \x04 moe: {experts: 3}\n"), "a.yaml:3:3: a control character; a configuration is UTF-8 text");
  EXPECT_EQ(complaint(std::string("m\0o\0", 4)), "a.yaml:1:2: a control character; a configuration is UTF-8 text");
  EXPECT_EQ(complaint("", {"model.name=a\x1B[1m"}), "command line: model.name: a control character; a configuration is UTF-8 text");
}

TEST(ConfigErrors, BytesThatAreNoUtf8AreRefused) {
  EXPECT_EQ(complaint("model:\n  name: caf\xE9\n"), "a.yaml:2:12: bytes that are no UTF-8; a configuration is UTF-8 text");
  EXPECT_EQ(complaint("", {"run.directory=/tmp/\xFF"}),
            "command line: run.directory: bytes that are no UTF-8; a configuration is UTF-8 text");
}

TEST(ConfigErrors, AShortenedNameIsKnownAmongItsSiblings) {
  EXPECT_EQ(complaint("", {"optimizer.lr=1"}), "command line: optimizer.lr: unknown key; did you mean optimizer.learning_rate?");
  EXPECT_EQ(complaint("", {"run.dir=x"}), "command line: run.dir: unknown key; did you mean run.directory?");
}

TEST(ConfigErrors, NoByteStringCrashesTheReader) {
  const std::string seed = "model:\n  layers: 4\n  moe: {experts: [8, \"a\"], choices: 'x'}\nrun: &a\n  seed: *a\n? - b\n: |\n  text\n";
  const std::string letters = "{}[]&*!|>'\"%@`#:-?,\n\t \\~<\xFF\x04";
  for (size_t at = 0; at < seed.size(); ++at) {
    for (const char letter : letters) {
      std::string changed = seed;
      changed[at] = letter;
      EXPECT_NE(complaint(changed), "") << "'" << letter << "' at " << at;
    }
  }
}

}  // namespace
}  // namespace pimoe
