#include "base/text.h"

#include <gtest/gtest.h>

#include <limits>

namespace pimoe {
namespace {

TEST(Text, ConcatWritesEveryPart) { EXPECT_EQ(concat("rank ", 3, " of ", 4.5, ' ', std::string("x")), "rank 3 of 4.5 x"); }

TEST(Text, FixedRoundsToTheDecimals) {
  EXPECT_EQ(fixed(3.14159, 2), "3.14");
  EXPECT_EQ(fixed(-0.996, 2), "-1.00");
  EXPECT_EQ(fixed(7, 0), "7");
  EXPECT_EQ(fixed(-std::numeric_limits<double>::quiet_NaN(), 3), "nan") << "without the sign that some processors give it";
  EXPECT_EQ(fixed(std::numeric_limits<double>::max(), 0).size(), 309u);
}

TEST(Text, ScientificHasTwoExponentDigits) {
  EXPECT_EQ(scientific(0.00094, 1), "9.4e-04");
  EXPECT_EQ(scientific(0, 0), "0e+00");
}

TEST(Text, GroupedSeparatesThousands) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(-999), "-999");
  EXPECT_EQ(grouped(-1234567), "-1,234,567");
  EXPECT_EQ(grouped(1234567), "1,234,567");
  EXPECT_EQ(grouped(INT64_MIN), "-9,223,372,036,854,775,808");
}

TEST(Text, CountsThings) {
  EXPECT_EQ(counted(0, "step"), "0 steps");
  EXPECT_EQ(counted(1, "step"), "1 step");
  EXPECT_EQ(counted(1234, "step"), "1,234 steps");
}

TEST(Text, HumanBytesChoosesTheUnitAndNeverPrintsAThousandOfIt) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1000), "1.0 kB");
  EXPECT_EQ(human_bytes(999'949), "999.9 kB");
  EXPECT_EQ(human_bytes(999'950), "1.0 MB");
  EXPECT_EQ(human_bytes(61.2e9), "61.2 GB");
  EXPECT_EQ(human_bytes(-2e12), "-2.0 TB");
  EXPECT_EQ(human_bytes(1e22), "10000.0 EB");
}

TEST(Text, ShortTimesHaveThreeDigits) {
  EXPECT_EQ(time_text(0.00241), "2.41 ms");
  EXPECT_EQ(time_text(0.0241), "24.1 ms");
  EXPECT_EQ(time_text(0.241), "241 ms");
  EXPECT_EQ(time_text(0.99949), "999 ms");
  EXPECT_EQ(time_text(0.9999), "1.00 s");
  EXPECT_EQ(time_text(31e-6), "31.0 us");
  EXPECT_EQ(time_text(12.34), "12.3 s");
}

TEST(Text, SharesHaveTwoDigits) {
  EXPECT_EQ(percent_text(0.834), "83 %");
  EXPECT_EQ(percent_text(0.0834), "8.3 %");
  EXPECT_EQ(percent_text(1.0), "100 %");
}

TEST(Text, HumanDurationReadsAsAPersonSaysIt) {
  EXPECT_EQ(human_duration(0), "0.0s");
  EXPECT_EQ(human_duration(0.42), "0.4s");
  EXPECT_EQ(human_duration(9.96), "10s");
  EXPECT_EQ(human_duration(12), "12s");
  EXPECT_EQ(human_duration(59.4), "59s");
  EXPECT_EQ(human_duration(59.6), "1m 00s");
  EXPECT_EQ(human_duration(245), "4m 05s");
  EXPECT_EQ(human_duration(3599.6), "1h 00m");
  EXPECT_EQ(human_duration(3 * 3600 + 12 * 60), "3h 12m");
  EXPECT_EQ(human_duration(3 * 3600 + 59 * 60 + 45), "4h 00m");
  EXPECT_EQ(human_duration(100 * 3600), "100h 00m");
  EXPECT_EQ(human_duration(1000.0 * 86400), "24000h 00m");
  EXPECT_EQ(human_duration(1e18), "over 1000 days");
  EXPECT_EQ(human_duration(-12), "-12s");
}

TEST(Text, HumanDurationOfWhatIsNotFiniteIsUnknown) {
  EXPECT_EQ(human_duration(std::numeric_limits<double>::infinity()), "unknown");
  EXPECT_EQ(human_duration(std::numeric_limits<double>::quiet_NaN()), "unknown");
}

TEST(Text, PaddedFillsWithZerosAndNeverCuts) {
  EXPECT_EQ(padded(42, 8), "00000042");
  EXPECT_EQ(padded(12345, 3), "12345");
  EXPECT_EQ(padded(0, 1), "0");
  EXPECT_EQ(padded(-7, 3), "-007");
  EXPECT_EQ(padded(7, -1), "7");
}

TEST(Text, SplitAndJoinUndoEachOther) {
  using Parts = std::vector<std::string>;
  EXPECT_EQ(split("", ','), Parts{""});
  EXPECT_EQ(split("a", ','), Parts{"a"});
  EXPECT_EQ(split("a,,b,", ','), (Parts{"a", "", "b", ""}));
  for (const std::string text : {"", ",", "a", "a,b", ",a,", "one,two,three"}) EXPECT_EQ(join(split(text, ','), ","), text);
  EXPECT_EQ(join({}, ", "), "");
  EXPECT_EQ(join({"a", "b", "c"}, ", "), "a, b, c");
}

TEST(NearestName, MendsTypingErrors) {
  const std::vector<std::string> names = {"learning_rate", "warmup_steps", "weight_decay", "beta1", "beta2"};
  EXPECT_EQ(nearest_name("learning_rat", names), "learning_rate");
  EXPECT_EQ(nearest_name("lerning-rate", names), "learning_rate");
  EXPECT_EQ(nearest_name("weihgt_decay", names), "weight_decay");
  EXPECT_EQ(nearest_name("beta2", names), "beta2");
}

TEST(NearestName, TakesTheFirstOfTwoEquallyNear) { EXPECT_EQ(nearest_name("beta3", {"beta1", "beta2"}), "beta1"); }

TEST(NearestName, AcceptsAThirdOfTheWordAndAtLeastTwo) {
  EXPECT_EQ(nearest_name("abcdef", {"abcdxy"}), "abcdxy");           // distance 2 of 6
  EXPECT_EQ(nearest_name("abcdef", {"abcxyz"}), "");                 // distance 3 of 6
  EXPECT_EQ(nearest_name("abcdefghi", {"abcdefxyz"}), "abcdefxyz");  // distance 3 of 9
  EXPECT_EQ(nearest_name("abcd", {"abxy"}), "abxy");                 // distance 2 of 4
}

TEST(NearestName, CountsTwoSwappedLettersAsOneEdit) {
  EXPECT_EQ(nearest_name("ab", {"xb", "ba"}), "xb");
  EXPECT_EQ(nearest_name("form", {"fxym", "from"}), "from");
}

TEST(NearestName, FindsNothingWhereNothingIsAlike) {
  EXPECT_EQ(nearest_name("lr", {"learning_rate", "bs", "xy"}), "");
  EXPECT_EQ(nearest_name("", {"a", "bb"}), "");
  EXPECT_EQ(nearest_name("word", {}), "");
}

TEST(Text, DurationsAreReadAsPeopleAndSlurmWriteThem) {
  EXPECT_EQ(parse_duration("90s"), 90);
  EXPECT_EQ(parse_duration("45m"), 2700);
  EXPECT_EQ(parse_duration("12h"), 43200);
  EXPECT_EQ(parse_duration("2d"), 172800);
  EXPECT_EQ(parse_duration("05:30"), 330);
  EXPECT_EQ(parse_duration("12:00:01"), 43201);
  EXPECT_EQ(parse_duration("100:00:00"), 360000);
  EXPECT_EQ(parse_duration("1-02:03:04"), 93784);
  for (const char* text : {"",    "s",     "12",    "1.5h", "-5m", "5 m", "1:60",  "1:2:3:4",
                           "1-2", "1-2:3", "-1:00", "1::2", ":",   "h5",  "2000d", "99999999999999999999s",
                           "1-",  "-",     "1:-2",  "+5m"}) {
    EXPECT_FALSE(parse_duration(text)) << text;
  }
}

}  // namespace
}  // namespace pimoe
