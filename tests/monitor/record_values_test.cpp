#include "monitor/record_values.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pimoe {
namespace {

using Json = nlohmann::json;

TEST(RecordValues, WhatIsMissingOrOfAnotherKindIsNoNumber) {
  const Json record = Json::parse(R"({"loss":2.5,"step":3,"mfu":null,"word":"7"})");
  EXPECT_EQ(number_in(record, "loss"), 2.5);
  EXPECT_EQ(number_in(record, "step"), 3.0);
  for (const char* key : {"mfu", "word", "missing"}) EXPECT_TRUE(std::isnan(number_in(record, key))) << key;
  EXPECT_TRUE(std::isnan(number_in(Json(), "loss"))) << "nothing was read";
}

TEST(RecordValues, TextsAreAsTheyStandAndOtherValuesAsJsonWritesThem) {
  const Json record = Json::parse(R"({"device":"CPU","ranks":4})");
  EXPECT_EQ(text_in(record, "device"), "CPU");
  EXPECT_EQ(text_in(record, "ranks"), "4");
  EXPECT_EQ(text_in(record, "missing"), "");
}

TEST(RecordValues, AListKeepsItsPlacesWhateverIsInIt) {
  const Json record = Json::parse(R"({"load":[1,null,"x",4.5],"none":7})");
  EXPECT_EQ(numbers_in(record, "load", -1.0), (std::vector<double>{1.0, -1.0, -1.0, 4.5}));
  EXPECT_TRUE(std::isnan(numbers_in(record, "load")[1]));
  EXPECT_TRUE(numbers_in(record, "none").empty());
  EXPECT_TRUE(numbers_in(record, "missing").empty());
}

}  // namespace
}  // namespace pimoe
