#include "serve/api_keys.h"

#include "base/errors.h"
#include "base/text.h"
#include "serve/rate_limit.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

constexpr const char* kOne = "0123456789abcdef";
constexpr const char* kTwo = "ABCDEF0123456789";

TEST(ApiKeys, FindsTheHolderOfAKeyAndNobodyElse) {
  const ApiKeys keys(concat("# who\n\nalice ", kOne, "\r\nbob\t", kTwo, " 12.5\n"), "keys");
  EXPECT_EQ(keys.find(concat("Bearer ", kOne)), 0u);
  EXPECT_EQ(keys.find(concat("bEARER   ", kTwo)), 1u);
  for (const std::string& wrong : {std::string(), std::string("Bearer"), std::string("Bearer "), std::string(kOne), concat("Basic ", kOne),
                                   concat("Bearer ", kOne, "0"), concat("Bearer ", std::string(kOne).substr(1)),
                                   concat("Bearer ", kOne, " "), concat("Bearer ", std::string(100'000, 'x'))}) {
    EXPECT_FALSE(keys.find(wrong)) << wrong.substr(0, 60);
  }
  EXPECT_EQ(keys.holders()[1].name, "bob");
  EXPECT_EQ(keys.holders()[1].requests_per_minute, 12.5);
  EXPECT_FALSE(keys.holders()[0].requests_per_minute);
}

TEST(ApiKeys, RefusesFilesThatLetInWhomNobodyMeantWithoutTellingKeys) {
  for (const std::string& content :
       {std::string(), std::string("# nobody\n"), std::string("alice\n"), std::string("alice short\n"), concat("alice ", kOne, " 5 6\n"),
        concat("alice ", kOne, " 0\n"), concat("alice ", kOne, " x\n"), concat("alice ", kOne, "\nbob ", kOne, "\n"),
        concat("alice ", kOne, "\nalice ", kTwo, "\n"), concat("al\x1b", "ce ", kOne, "\n"), concat("alice ", kOne, "\x80\n"),
        concat("alice ", std::string(513, 'x'), "\n")}) {
    try {
      const ApiKeys keys(content, "keys");
      ADD_FAILURE() << content;
    } catch (const DataError& error) {
      EXPECT_EQ(std::string(error.what()).find(kOne), std::string::npos) << error.what();
    }
  }
}

TEST(RateLimit, LetsAMinutesWorthThroughAtOnceAndThenOneAtATime) {
  RateLimit limit({std::optional<double>(3.0), std::nullopt});
  const RateLimit::Time start{};
  const auto at = [&](double seconds) {
    return start + std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
  };
  for (int count = 0; count < 3; ++count) EXPECT_FALSE(limit.take(0, at(0)));
  EXPECT_NEAR(limit.take(0, at(0)).value(), 20.0, 1e-6) << "three a minute: one each 20 seconds";
  EXPECT_NEAR(limit.take(0, at(15)).value(), 5.0, 1e-6) << "what is refused costs nothing";
  EXPECT_FALSE(limit.take(0, at(20.1)));
  EXPECT_TRUE(limit.take(0, at(20.2)));
  for (int count = 0; count < 3; ++count) EXPECT_FALSE(limit.take(0, at(10'000))) << "no more than a minute's worth is saved up";
  EXPECT_TRUE(limit.take(0, at(10'000)));
  for (int count = 0; count < 100; ++count) EXPECT_FALSE(limit.take(1, at(0)));
}

TEST(RateLimit, LetsOneThroughThoughLessThanOneAMinuteIsAllowed) {
  RateLimit limit({std::optional<double>(0.5)});
  EXPECT_FALSE(limit.take(0, RateLimit::Time{}));
  EXPECT_NEAR(limit.take(0, RateLimit::Time{}).value(), 120.0, 1e-6);
}

}  // namespace
}  // namespace pimoe
