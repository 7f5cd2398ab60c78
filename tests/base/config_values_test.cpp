#include "base/config_values.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

struct Part {
  int64_t count = 1;
  void fields(FieldVisitor& visit) { visit.integer("count", count, {}, ""); }
};

struct Whole {
  bool on = false;
  int64_t width = 0;
  double rate = 1e-3;
  std::string name;
  std::vector<Part> parts;
  void fields(FieldVisitor& visit) {
    visit.flag("on", on, "");
    visit.integer_or_auto("width", width, {}, "");
    visit.number("rate", rate, {}, "");
    visit.text("name", name, "");
    visit.list("parts", parts, "");
  }
};

struct Root {
  Whole whole;
  void fields(FieldVisitor& visit) { visit.nested("whole", whole); }
};

ConfigValues values(Root root) {
  return config_values([&](FieldVisitor& visit) { root.fields(visit); });
}

TEST(ConfigValues, HaveTheirFullPaths) {
  Root root;
  root.whole.parts = {{.count = 2}, {.count = 3}};
  EXPECT_EQ(values(root), (ConfigValues{{"whole.on", "false"},
                                        {"whole.width", "auto"},
                                        {"whole.rate", "0.001"},
                                        {"whole.name", ""},
                                        {"whole.parts[0].count", "2"},
                                        {"whole.parts[1].count", "3"}}));
}

TEST(ConfigValues, ThatDifferAreNamedWithBoth) {
  Root before;
  before.whole.name = "a";
  before.whole.parts = {{.count = 2}, {.count = 3}};
  Root after = before;
  EXPECT_TRUE(differing_values(values(before), "then", values(after), "now").empty());
  after.whole.width = 16;
  after.whole.name = "";
  after.whole.parts.pop_back();
  EXPECT_EQ(differing_values(values(before), "then", values(after), "now"),
            (std::vector<std::string>{"whole.width: auto then, 16 now", "whole.name: a then, empty now",
                                      "whole.parts[1].count: 3 then, nothing now"}));
  EXPECT_EQ(differing_values(values(after), "then", values(before), "now").back(), "whole.parts[1].count: nothing then, 3 now");
}

}  // namespace
}  // namespace pimoe
