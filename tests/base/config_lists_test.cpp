/// Lists of structs: `groups: [{name: a, count: 2}, {name: b}]`.

#include <gtest/gtest.h>

#include <utility>

#include "base/config_sample.h"
#include "base/text.h"

namespace pimoe {
namespace {

using Table = std::vector<std::pair<std::string, std::string>>;
using Groups = std::vector<SampleGroup>;

Groups groups_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return loaded(yaml, overrides).model.moe.groups;
}

/// What the file and then the overrides make of a configuration that has two groups before anything is read.
Groups groups_after(const std::string& yaml, const std::vector<std::string>& overrides) {
  SampleConfig config;
  config.model.moe.groups = {{.name = "first", .count = 3}, {.name = "second", .count = 4}};
  load_fields(yaml, "a.yaml", overrides, [&config](FieldVisitor& visit) { config.fields(visit); });
  return config.model.moe.groups;
}

std::string printed(SampleConfig config) {
  return print_fields([&config](FieldVisitor& visit) { config.fields(visit); });
}

const Groups kTwo = {{.name = "reasoning", .count = 2, .activation = Activation::kGelu, .shape = {32}}, {.name = "computation"}};

TEST(ConfigLists, FlowAndBlockSequencesReadTheSame) {
  EXPECT_EQ(groups_of("model: {moe: {groups: [{name: reasoning, count: 2, activation: gelu, shape: {width: 32}}, {name: computation}]}}"),
            kTwo);
  EXPECT_EQ(groups_of(R"(
model:
  moe:
    groups:
      - name: reasoning
        count: 2
        activation: gelu
        shape: {width: 32}
      - name: computation
)"),
            kTwo);
}

TEST(ConfigLists, WhatAnElementLeavesOutIsTheDefaultOfItsStruct) {
  EXPECT_EQ(groups_of("model: {moe: {groups: [{}, {count: 2}]}}"), (Groups{{}, {.count = 2}}));
  EXPECT_EQ(groups_after("model: {moe: {groups: [{count: 7}]}}", {}), (Groups{{.count = 7}})) << "not the element that was there";
}

TEST(ConfigLists, MissingKeyKeepsTheListAndAnEmptyListEmptiesIt) {
  EXPECT_EQ(groups_after("model: {moe: {experts: 4}}", {}).size(), 2u);
  EXPECT_TRUE(groups_after("model: {moe: {groups: []}}", {}).empty());
  EXPECT_TRUE(groups_after("", {"model.moe.groups=[]"}).empty());
}

TEST(ConfigLists, OverrideReplacesTheWholeList) {
  const std::string yaml = "model: {moe: {groups: [{name: a, count: 5}, {name: b}]}}";
  EXPECT_EQ(groups_of(yaml, {"model.moe.groups=[{name: c}]"}), (Groups{{.name = "c"}}));
  EXPECT_EQ(groups_of(yaml, {"model.moe.groups=[{name: c}]", "model.moe.groups=[{}, {}, {}]"}).size(), 3u);
  EXPECT_EQ(groups_of(yaml, {"model.moe.groups.0.count=6", "model.moe.groups=[{name: c}]"}), (Groups{{.name = "c"}}));
}

TEST(ConfigLists, OverrideReachesIntoAnElementOfTheFileOrOfAnEarlierOverride) {
  const std::string yaml = "model: {moe: {groups: [{name: a, count: 5}, {name: b}]}}";
  for (const char* second : {"model.moe.groups.1", "model.moe.groups[1]"}) {
    EXPECT_EQ(groups_of(yaml, {concat(second, ".count=6"), concat(second, ".shape.width=8")}),
              (Groups{{.name = "a", .count = 5}, {.name = "b", .count = 6, .shape = {8}}}));
  }
  EXPECT_EQ(groups_of(yaml, {"model.moe.groups=[{name: c}]", "model.moe.groups.0.count=6", "model.moe.groups.0.shape.width=8"}),
            (Groups{{.name = "c", .count = 6, .shape = {8}}}));
  EXPECT_EQ(groups_after("", {"model.moe.groups.1.count=6"})[1], (SampleGroup{.name = "second", .count = 6}));
  EXPECT_EQ(groups_of(yaml, {"model.moe.groups.1.more=[{width: 2}, {}]", "model.moe.groups.1.more.0.width=3"})[1].more,
            (std::vector<SampleShape>{{3}, {64}}));
}

TEST(ConfigLists, ElementsAreAsStrictAsTheRestAndNamedByTheirIndex) {
  const Table table = {
      {"[{name: a}, {coumt: 4}]", "a.yaml:4:24: model.moe.groups[1].coumt: unknown key; did you mean model.moe.groups[1].count?"},
      {"[{count: 1}, {count: 0}]", "a.yaml:4:32: model.moe.groups[1].count: 0 must be at least 1"},
      {"[{count: many}]", "a.yaml:4:20: model.moe.groups[0].count: many must be an integer"},
      {"[{count: }]", "a.yaml:4:13: model.moe.groups[0].count: has no value; leave the key out to take the default"},
      {"[{activation: gela}]", "a.yaml:4:25: model.moe.groups[0].activation: gela must be one of silu, gelu; did you mean gelu?"},
      {"[{}, {name: a, name: b}]", "a.yaml:4:26: model.moe.groups[1].name: duplicate key; it is on line 4 already"},
      {"[{shape: {width: 0}}]", "a.yaml:4:28: model.moe.groups[0].shape.width: 0 must be at least 1"},
      {"[{shape: {wdth: 1}}]", "a.yaml:4:21: model.moe.groups[0].shape.wdth: unknown key; did you mean model.moe.groups[0].shape.width?"},
      {"[{}, {more: [{}, {width: x}]}]", "a.yaml:4:36: model.moe.groups[1].more[1].width: x must be an integer"},
      {"[{}, &name {}]", "a.yaml:4:16: model.moe.groups[1]: anchors (&name) are not supported"},
      {"[{}, !tag {}]", "a.yaml:4:16: model.moe.groups[1]: tags (!tag) are not supported"},
      {"[{}, {<<: {count: 2}}]", "a.yaml:4:17: model.moe.groups[1].<<: merges (<<) are not supported; write the keys out"},
      {"[{}, 5]", "a.yaml:4:16: model.moe.groups[1]: is a group of keys, not one value"},
      {"[[{}]]", "a.yaml:4:12: model.moe.groups[0]: is a group of keys, not one value"},
      {"[{}, ~]", "a.yaml:4:11: model.moe.groups[1]: has no value; write {} for an element of defaults"},
      {"5", "a.yaml:4:11: model.moe.groups: is a list ([{...}, {...}], or lines that begin with '- '), not one value"},
      {"", "a.yaml:4:3: model.moe.groups: has no value; leave the key out to take the default, or write [] for no elements"},
      {"{name: a}", "a.yaml:4:11: model.moe.groups: is a list ([{...}, {...}], or lines that begin with '- '), not a group of keys"},
      {"{0: {count: 4}}", "a.yaml:4:11: model.moe.groups: is a list ([{...}, {...}], or lines that begin with '- '), not a group of keys"},
  };
  const auto complaint_about = [](const std::string& list) {
    return complaint(concat("model:\n moe:\n  experts: 4\n  groups: ", list, "\n"));
  };
  for (const auto& [list, said] : table) EXPECT_EQ(complaint_about(list), said) << list;
  // yaml-cpp 0.8 adds the anchor's name.
  EXPECT_EQ(complaint_about("[{}, *name]").rfind("a.yaml:4:16: not valid YAML: the referenced anchor is not defined", 0), 0u);
}

TEST(ConfigLists, BlockElementsHaveTheirPlaces) {
  EXPECT_EQ(complaint("model:\n  moe:\n    groups:\n      - name: a\n        count: 0\n      -\n      - coumt: 1\n"),
            "a.yaml:4:7: model.moe.groups[1]: has no value; write {} for an element of defaults\n"
            "a.yaml:5:16: model.moe.groups[0].count: 0 must be at least 1\n"
            "a.yaml:7:9: model.moe.groups[2].coumt: unknown key; did you mean model.moe.groups[2].count?");
}

TEST(ConfigLists, KeyOfAnElementElsewhereIsLedThere) {
  EXPECT_EQ(complaint("model: {moe: {activation: gelu, groups: [{}, {}]}}"),
            "a.yaml:1:15: model.moe.activation: unknown key; did you mean model.moe.groups[0].activation?");
}

TEST(ConfigLists, OverridesOfElementsAreStrict) {
  const std::string yaml = "model: {moe: {groups: [{name: a}, {name: b}]}}";
  const Table table = {
      {"model.moe.groups.2.count=4", "model.moe.groups.2: there is no element 2: the list has 2 elements, counted from 0"},
      {"model.moe.groups.00.count=4", "model.moe.groups.00: there is no element 00: the list has 2 elements, counted from 0"},
      {"model.moe.groups.-1.count=4", "model.moe.groups.-1: there is no element -1: the list has 2 elements, counted from 0"},
      {"model.moe.groups.99999999999999999999.count=4",
       "model.moe.groups.99999999999999999999: there is no element 99999999999999999999: the list has 2 elements, counted from 0"},
      {"model.moe.groups.count=4", "model.moe.groups.count: there is no element count: the list has 2 elements, counted from 0"},
      {"model.moe.groups[].count=4", "model.moe.groups[]: unknown key; did you mean model.moe.groups?"},
      {"model.moe.groups.1=4", "model.moe.groups[1]: is a group of keys, not one value"},
      {"model.moe.groups.1={count: 4}",
       "model.moe.groups.1: {count: 4} is a map; an override sets one value or a whole list (put text with ': ' in quotes)"},
      {"model.moe.groups.1.coumt=4", "model.moe.groups[1].coumt: unknown key; did you mean model.moe.groups[1].count?"},
      {"model.moe.groups.1.count=0", "model.moe.groups[1].count: 0 must be at least 1"},
      {"model.moe.groups=", "model.moe.groups: is a list ([{...}, {...}], or lines that begin with '- '), not one value"},
      {"model.moe.groups=[{coumt: 1}]", "model.moe.groups[0].coumt: unknown key; did you mean model.moe.groups[0].count?"},
      {"model.moe.groups=[{count: 1, count: 2}]", "model.moe.groups[0].count: duplicate key"},
      {"model.layers.0=4", "model.layers: is one value, not a group of keys"},
      {"model[0].layers=4", "model.0: unknown key; known here: layers, name, moe"},
  };
  for (const auto& [override_text, said] : table) EXPECT_EQ(complaint(yaml, {override_text}), "command line: " + said) << override_text;
  EXPECT_EQ(complaint("", {"model.moe.groups=[{}]", "model.moe.groups.1.count=4"}),
            "command line: model.moe.groups.1.count: there is no element 1: the list has 1 element, counted from 0");
  EXPECT_EQ(complaint("", {"model.moe.groups=[5]", "model.moe.groups.0.count=4"}),
            "command line: model.moe.groups[0]: is a group of keys, not one value\n"
            "command line: model.moe.groups.0.count: is set both as one value and as a group of keys");
  EXPECT_EQ(complaint("", {"model.moe.groups.0.count=4"}),
            "command line: model.moe.groups.0: there is no element 0: the list has 0 elements");
}

TEST(ConfigLists, OriginsKnowTheKeysOfElements) {
  SampleConfig config;
  const auto origins_after = [&](const std::vector<std::string>& overrides) {
    return load_fields("model:\n  moe:\n    groups:\n    - {name: a, count: 2}\n    - {name: b, shape: {width: 3}}\n", "a.yaml", overrides,
                       [&](FieldVisitor& visit) { config.fields(visit); });
  };
  const ConfigOrigins origins = origins_after({"model.moe.groups[1].count=4"});
  EXPECT_EQ(origins.of("model.moe.groups"), "a.yaml:4:5");
  EXPECT_EQ(origins.of("model.moe.groups[1]"), "a.yaml:5:7");
  EXPECT_EQ(origins.of("model.moe.groups[0].count"), "a.yaml:4:24");
  EXPECT_EQ(origins.of("model.moe.groups[1].count"), "command line");
  EXPECT_EQ(origins.of("model.moe.groups[1].shape.width"), "a.yaml:5:32");
  EXPECT_EQ(origins.of("model.moe.groups[1].activation"), "");
  const ConfigOrigins replaced = origins_after({"model.moe.groups=[{name: c}]"});
  EXPECT_EQ(replaced.of("model.moe.groups"), "command line");
  EXPECT_EQ(replaced.of("model.moe.groups[0].name"), "command line");
  EXPECT_EQ(replaced.of("model.moe.groups[0].count"), "") << "a default now, whatever the file said";
  EXPECT_EQ(replaced.of("model.moe.groups[1].shape.width"), "");

  Violations violations;
  violations.add("model.moe.groups[0].count", "(2) is too few");
  EXPECT_THROW(
      try { refuse(violations, origins); } catch (const ConfigError& error) {
        EXPECT_STREQ(error.what(), "a.yaml:4:24: model.moe.groups[0].count (2) is too few");
        throw;
      },
      ConfigError);
}

TEST(ConfigLists, PrintAsBlocksThatExplainThemselvesOnce) {
  SampleConfig config;
  config.model.moe.groups = kTwo;
  config.model.moe.groups[1].more = {{7}, {8}};
  EXPECT_NE(printed(config).find(R"(
    groups:  # kinds of experts
      - name: "reasoning"  # of the group
        count: 2  # its experts
        activation: gelu  # silu | gelu; of all of them
        shape:
          width: 32  # of the hidden layer
        more: []  # layers
      - name: "computation"
        count: 1
        activation: silu
        shape:
          width: 64
        more:
          - width: 7
          - width: 8
optimizer:
)"),
            std::string::npos)
      << printed(config);
}

TEST(ConfigLists, OfAnyLengthAreReadBackAsTheyWerePrinted) {
  for (const size_t size : {0, 1, 2, 11}) {
    SampleConfig config;
    for (size_t i = 0; i < size; ++i) {
      SampleGroup group{.name = concat("- [", i, "]: {}"), .count = static_cast<int64_t>(i) + 1, .activation = Activation::kGelu};
      group.more.resize(i % 3);
      config.model.moe.groups.push_back(group);
    }
    EXPECT_EQ(loaded(printed(config)), config) << printed(config);
  }
}

struct Spoken {
  std::vector<std::string> words = {"log"};
  void fields(FieldVisitor& visit) { visit.word_list("do", words, {"log", "file", "stop"}, "what is done"); }
};

std::vector<std::string> words_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  Spoken spoken;
  load_fields(yaml, "a.yaml", overrides, [&](FieldVisitor& visit) { spoken.fields(visit); });
  return spoken.words;
}

TEST(ConfigLists, OfWordsAreReadInTheirOrder) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(words_of(""), (Words{"log"}));
  EXPECT_EQ(words_of("do: [stop, log]"), (Words{"stop", "log"}));
  EXPECT_EQ(words_of("do:\n  - file\n  - log\n"), (Words{"file", "log"}));
  EXPECT_EQ(words_of("do: stop"), (Words{"stop"})) << "one alone";
  EXPECT_EQ(words_of("do: []"), Words{});
  EXPECT_EQ(words_of("do: [stop]", {"do=[file, log]"}), (Words{"file", "log"}));
  Spoken spoken{{"file", "stop"}};
  EXPECT_EQ(print_fields([&](FieldVisitor& visit) { spoken.fields(visit); }), "do: [file, stop]  # of log, file, stop; what is done\n");
}

TEST(ConfigLists, OfWordsRefuseEverythingElse) {
  for (const char* yaml :
       {"do:", "do: [log, log]", "do: [lag]", "do: {log: 1}", "do: [[log]]", "do: [{a: 1}]", "do: [log, ]x", "do: [~]", "do: 3"}) {
    EXPECT_THROW(words_of(yaml), ConfigError) << yaml;
  }
  try {
    words_of("do: [log, stp]");
    ADD_FAILURE() << "was taken";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean stop?"), std::string::npos) << error.what();
  }
}

struct Hollow {
  int64_t kept = 0;
  void fields(FieldVisitor&) {}
};

struct Choir {
  std::vector<Hollow> silent;
  std::vector<SampleShape> last = {{1}};
  void fields(FieldVisitor& visit) {
    visit.list("silent", silent, "have no keys");
    visit.list("last", last, "");
  }
};

TEST(ConfigLists, ElementsWithoutKeysRoundTripToo) {
  Choir choir;
  choir.silent.resize(2);
  const std::string text = print_fields([&](FieldVisitor& visit) { choir.fields(visit); });
  EXPECT_EQ(text, "silent:  # have no keys\n  - {}\n  - {}\nlast:\n  - width: 1  # of the hidden layer\n");
  Choir read;
  load_fields(text, "a.yaml", {}, [&](FieldVisitor& visit) { read.fields(visit); });
  EXPECT_EQ(read.silent.size(), 2u);
}

TEST(ConfigLists, NoListCrashesTheReader) {
  const std::string seed = "[{name: a, count: 2}, {shape: {width: 1}}, {more: [{}, {}]}]";
  for (size_t at = 0; at < seed.size(); ++at) {
    for (const char letter : std::string("{}[]&*!|>'\"#:-?,\n <0.\x04")) {
      std::string changed = seed;
      changed[at] = letter;
      complaint("model:\n moe:\n  groups: " + changed);
      complaint("", {"model.moe.groups=" + changed, "model.moe.groups.1.count=3", "model.moe.groups.2.more.1.width=3"});
      complaint("", {"model.moe.groups=" + seed, "model.moe.groups." + changed + "=3"});
    }
  }
}

TEST(ConfigLists, TensOfThousandsOfElementsAreRead) {
  std::string yaml = "model:\n  moe:\n    groups:\n";
  for (int i = 0; i < 20'000; ++i) yaml += concat("    - {name: n, count: ", i + 1, "}\n");
  EXPECT_EQ(groups_of(yaml).back().count, 20'000);
}

}  // namespace
}  // namespace pimoe
