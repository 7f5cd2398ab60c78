#include "base/work_progress.h"

#include "base/file_io.h"
#include "support/temporary_folder.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace pimoe {
namespace {

TEST(WorkProgressText, SaysHowFarHowFastAndHowLongStill) {
  EXPECT_EQ(WorkProgress::line("verifying a", WorkUnit::kBytes, 1'000'000'000, 4'000'000'000, 5.0, ""),
            "verifying a: 1.0 GB of 4.0 GB (25 %)  200.0 MB/s  left 15s");
  EXPECT_EQ(WorkProgress::line("prompts", WorkUnit::kCount, 30, 40, 10.0, "2 ranks"),
            "prompts: 30 of 40 (75 %)  3.0/s  2 ranks  left 3.3s");
  EXPECT_EQ(WorkProgress::line("reading a pipe", WorkUnit::kBytes, 1'000'000, 0, 1.0, ""), "reading a pipe: 1.0 MB  1.0 MB/s");
}

TEST(WorkProgressText, BarFillsUp) {
  EXPECT_EQ(WorkProgress::bar(0.0, 4), "[    ]");
  EXPECT_EQ(WorkProgress::bar(0.5, 4), "[##  ]");
  EXPECT_EQ(WorkProgress::bar(2.0, 4), "[####]");
}

// Two seconds are what work may take without a word.
TEST(WorkProgress, TellsInPlainLinesWhatTheInnermostOfTheThreadCounts) {
  const TemporaryFolder folder;
  Logger log(/*rank=*/1);  // whose terminal is silent
  log.open_file(folder / "log");
  count_work(1000);  // nobody asks
  {
    const WorkProgress outer("outer", WorkUnit::kCount, log, 10);
    {
      const WorkProgress inner("inner", WorkUnit::kCount, log, 8);
      count_work(1);
      EXPECT_EQ(read_file(folder / "log"), "") << "it has not taken two seconds";
      std::this_thread::sleep_for(std::chrono::milliseconds(2010));
      count_work(3);
      std::thread([] { count_work(100); }).join();  // another thread's work is its own
    }
    count_work(5);
  }
  const std::string said = read_file(folder / "log");
  EXPECT_NE(said.find("info:   inner: 4 of 8 (50 %)"), std::string::npos) << said;
  EXPECT_NE(said.find("info:   outer: 5 of 10 (50 %)"), std::string::npos) << said;
  EXPECT_EQ(said.find('\r'), std::string::npos) << "a bar in a file";
}

}  // namespace
}  // namespace pimoe
