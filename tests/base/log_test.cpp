#include "base/log.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <regex>
#include <thread>
#include <vector>

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

class LoggerTest : public ::testing::Test {
 protected:
  LoggerTest() {
    std::string pattern = (fs::temp_directory_path() / "pimoe-log-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~LoggerTest() override { fs::remove_all(folder_); }

  static void log_one_of_each(Logger& logger) {
    logger.debug("a detail");
    logger.info("a line");
    logger.warning("a doubt");
    logger.error("a failure");
  }

  /// @returns what reached the terminal; a Logger asks once, when it is made, whether stderr is one.
  static std::string terminal_of(int rank) {
    ::testing::internal::CaptureStderr();
    {
      Logger logger(rank);
      log_one_of_each(logger);
    }
    return ::testing::internal::GetCapturedStderr();
  }

  fs::path folder_;
};

TEST_F(LoggerTest, RankZeroWritesInfoAndAlarmsToTheTerminal) { EXPECT_EQ(terminal_of(0), "a line\nwarning: a doubt\nerror: a failure\n"); }

TEST_F(LoggerTest, OtherRanksWriteAlarmsAloneAndSayWhoTheyAre) {
  EXPECT_EQ(terminal_of(3), "rank 3: warning: a doubt\nrank 3: error: a failure\n");
}

TEST_F(LoggerTest, WhatIsSaidBeforeThereIsAFileIsInItFirst) {
  ::testing::internal::CaptureStderr();
  {
    Logger logger;
    logger.warning("before");
    logger.open_file(folder_ / "log");
    logger.info("after");
    logger.open_file(folder_ / "second");
  }
  ::testing::internal::GetCapturedStderr();
  const std::string said = read_file(folder_ / "log");
  EXPECT_TRUE(std::regex_match(said, std::regex(".* warning: before\n.* info: after\n"))) << said;
  EXPECT_EQ(read_file(folder_ / "second"), "");
}

TEST_F(LoggerTest, APipeThatNobodyReadsIsRefused) {
  ASSERT_EQ(::mkfifo((folder_ / "log").c_str(), 0666), 0);
  Logger logger;
  try {
    logger.open_file(folder_ / "log");
    FAIL() << "nothing was refused";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("it is a pipe that nobody reads"), std::string::npos) << error.what();
  }
}

TEST_F(LoggerTest, WhatCouldDriveATerminalIsWrittenOut) {
  ::testing::internal::CaptureStderr();
  {
    Logger logger;
    logger.open_file(folder_ / "log");
    logger.error("no file \x1b]0;mine\x07\x1b[2J\nsecond line");
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "error: no file \\x1b]0;mine\\x07\\x1b[2J\nsecond line\n");
  EXPECT_EQ(read_file(folder_ / "log").find('\x1b'), std::string::npos);
}

TEST_F(LoggerTest, PercentAndBracesAreText) {
  ::testing::internal::CaptureStderr();
  {
    Logger logger;
    logger.info("38.1 % MFU {} {0} %v");
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "38.1 % MFU {} {0} %v\n");
}

TEST_F(LoggerTest, FileHasEveryLevelWithATimeStamp) {
  const fs::path file = folder_ / "log" / "deep" / "rank-0003.log";
  ::testing::internal::CaptureStderr();
  {
    Logger logger(3);
    logger.open_file(file);
    log_one_of_each(logger);
  }
  ::testing::internal::GetCapturedStderr();
  const std::vector<std::string> lines = split(read_file(file), '\n');
  ASSERT_EQ(lines.size(), 5u);
  const std::vector<std::string> expected = {"debug: a detail", "info: a line", "warning: a doubt", "error: a failure"};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(std::regex_match(lines[i], std::regex(R"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} )" + expected[i]))) << lines[i];
  }
  EXPECT_EQ(lines[4], "");
}

TEST_F(LoggerTest, InfoIsInTheFileAtOnce) {
  Logger logger(1);
  logger.open_file(folder_ / "log");
  logger.info("seen while running");
  EXPECT_NE(read_file(folder_ / "log").find("seen while running"), std::string::npos);
}

TEST_F(LoggerTest, FileIsAppendedTo) {
  for (const char* line : {"first run", "second run"}) {
    Logger logger(1);
    logger.open_file(folder_ / "log");
    logger.info(line);
  }
  const std::string content = read_file(folder_ / "log");
  EXPECT_LT(content.find("first run"), content.find("second run"));
  EXPECT_NE(content.find("second run"), std::string::npos);
}

TEST_F(LoggerTest, SecondFileTakesOver) {
  Logger logger(1);
  logger.open_file(folder_ / "one");
  logger.open_file(folder_ / "two");
  logger.info("later");
  EXPECT_EQ(read_file(folder_ / "one"), "");
  EXPECT_NE(read_file(folder_ / "two").find("later"), std::string::npos);
}

TEST_F(LoggerTest, FileThatCannotBeOpenedIsAnIoErrorWithItsName) {
  write_durably(folder_ / "plain", "x", 1);
  Logger logger;
  try {
    logger.open_file(folder_ / "plain" / "log");
    FAIL() << "no IoError";
  } catch (const IoError& error) {
    EXPECT_EQ(error.code(), ENOTDIR);
    EXPECT_NE(std::string(error.what()).find((folder_ / "plain" / "log").string()), std::string::npos) << error.what();
  }
  try {
    logger.open_file(folder_);
    FAIL() << "no IoError";
  } catch (const IoError& error) {
    EXPECT_EQ(error.code(), EISDIR);
  }
}

TEST_F(LoggerTest, LinesOfManyThreadsStayWhole) {
  Logger logger(1);
  logger.open_file(folder_ / "log");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&logger, t] {
      for (int i = 0; i < 250; ++i) logger.info(concat("<", t, ":", std::string(100, static_cast<char>('a' + t)), ">"));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<std::string> lines = split(read_file(folder_ / "log"), '\n');
  ASSERT_EQ(lines.size(), 1001u);
  const std::regex whole(R"(.* info: <\d:(a{100}|b{100}|c{100}|d{100})>)");
  for (size_t i = 0; i + 1 < lines.size(); ++i) EXPECT_TRUE(std::regex_match(lines[i], whole)) << lines[i];
}

TEST_F(LoggerTest, SaysOnceThatItsFileCannotBeWritten) {
  ::testing::internal::CaptureStderr();
  {
    Logger logger;
    logger.open_file("/dev/full");
    log_one_of_each(logger);
    log_one_of_each(logger);
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  const size_t at = said.find("warning: the log file cannot be written: ");
  ASSERT_NE(at, std::string::npos) << said;
  EXPECT_EQ(said.find("the log file", at + 20), std::string::npos) << said;
  EXPECT_EQ(said.find("LOG ERROR"), std::string::npos) << said;
}

}  // namespace
}  // namespace pimoe
