#include "parallel/agreement.h"

#include "base/errors.h"
#include "base/text.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace pimoe {
namespace {

/// What every rank is told where the ranks do `work`. @param Kind  the type that each must throw
template <class Kind>
std::string told(const std::function<void(int rank)>& work) {
  const auto world = test_session().world();
  std::string text;
  try {
    do_together(*world, [&] { work(world->rank()); });
  } catch (const Kind& error) {
    text = error.what();
  }
  const std::vector<std::string> all = world->all_gather_text(text);
  for (const std::string& each : all) EXPECT_EQ(each, text);
  return text;
}

TEST(Agreement, WhatOneRankThrowsEveryRankThrowsWithItsTypeAndNumber) {
  const int last = test_session().size() - 1;
  const std::string who = last == 0 ? "" : concat("rank ", last, ": ");
  const auto fails = [&](const auto& error) {
    return [&, error](int rank) {
      if (rank == last) throw error;
    };
  };
  EXPECT_EQ(told<DataError>(fails(DataError("no weights"))), who + "no weights");
  EXPECT_EQ(told<UsageError>(fails(UsageError("no name"))), who + "no name");
  EXPECT_EQ(told<ConfigError>(fails(ConfigError("no key"))), who + "no key");
  EXPECT_EQ(told<CheckpointError>(fails(CheckpointError("no manifest"))), who + "no manifest");
  EXPECT_EQ(told<Error>(fails(Error("no idea"))), who + "no idea");
  const auto world = test_session().world();
  try {
    do_together(*world, [&] { fails(IoError("full", ENOSPC))(world->rank()); });
    FAIL();
  } catch (const IoError& error) {
    EXPECT_EQ(error.what(), who + "full");
    EXPECT_TRUE(error.is_lack_of_space());
  }
}

TEST(Agreement, WhatAllSayIsSaidWithoutANumber) {
  EXPECT_EQ(told<DataError>([](int) { throw DataError("there is no a/b"); }), "there is no a/b");
}

TEST(Agreement, TheLowestRankIsHeard) {
  if (test_session().size() == 1) {
    EXPECT_EQ(told<Error>([](int rank) { throw DataError(concat(rank)); }), "0");
  } else {
    EXPECT_EQ(told<Error>([](int rank) { throw DataError(concat("mine is ", rank)); }), "rank 0: mine is 0");
  }
}

TEST(Agreement, WhoAllSucceedGoesOn) {
  int done = 0;
  do_together(*test_session().world(), [&] { ++done; });
  EXPECT_EQ(done, 1);
}

}  // namespace
}  // namespace pimoe
