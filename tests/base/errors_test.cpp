#include "base/errors.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <new>

namespace pimoe {
namespace {

TEST(ExitCode, FollowsTheTypeOfTheError) {
  EXPECT_EQ(exit_code(UsageError("x")), ExitCode::kUsage);
  EXPECT_EQ(exit_code(ConfigError("x")), ExitCode::kBadConfig);
  EXPECT_EQ(exit_code(DataError("x")), ExitCode::kBadData);
  EXPECT_EQ(exit_code(CheckpointError("x")), ExitCode::kBadData);
  EXPECT_EQ(exit_code(SaveError("x")), ExitCode::kInputOutput);
  EXPECT_EQ(exit_code(IoError("x", ENOSPC)), ExitCode::kInputOutput);
  EXPECT_EQ(exit_code(CommError("x")), ExitCode::kInternal);
  EXPECT_EQ(exit_code(ShapeError("x")), ExitCode::kInternal);
}

TEST(ExitCode, IsInternalForWhatIsNotOurs) {
  EXPECT_EQ(exit_code(Error("x")), ExitCode::kInternal);
  EXPECT_EQ(exit_code(std::bad_alloc()), ExitCode::kInternal);
}

TEST(ExitCode, SeesTheTypeThroughAReferenceToTheBase) {
  try {
    throw ConfigError("model.layers (0) must be at least 1");
  } catch (const std::exception& error) {
    EXPECT_EQ(exit_code(error), ExitCode::kBadConfig);
    EXPECT_STREQ(error.what(), "model.layers (0) must be at least 1");
  }
}

TEST(IoError, KeepsTheErrno) { EXPECT_EQ(IoError("disk full", ENOSPC).code(), ENOSPC); }

}  // namespace
}  // namespace pimoe
