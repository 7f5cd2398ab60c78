#include "train/tensorboard_file.h"

#include "base/file_io.h"
#include "support/temporary_folder.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>

namespace pimoe {
namespace {

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += kDigits[static_cast<uint8_t>(byte) >> 4];
    text += kDigits[static_cast<uint8_t>(byte) & 15];
  }
  return text;
}

// The check values of RFC 3720, appendix B.4, and the one that every catalogue of CRCs has.
TEST(Crc32c, IsThatOfThePublishedExamples) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(EventRecord, HasLengthChecksAndTheVersion) {
  const std::string event = version_event(1.0);
  EXPECT_EQ(hex(event),
            "09000000000000f03f"
            "1a0d"
            "627261696e2e4576656e743a32");  // 1: 1.0 | 3: 13 bytes "brain.Event:2"
  const std::string record = event_record(event);
  ASSERT_EQ(record.size(), 8 + 4 + event.size() + 4);
  EXPECT_EQ(hex(record.substr(0, 12)), "1800000000000000a37f4b22");  // 24 bytes: the length that every TensorBoard file begins with
}

TEST(ScalarEvent, IsStepAndSummaryOfTagsAndFloats) {
  EXPECT_EQ(hex(scalar_event(1.0, 300, {{"ab", 1.5}})),
            "09000000000000f03f"  // 1: wall time 1.0
            "10ac02"              // 2: step 300 = 0b10'0101100
            "2a0b"                // 5: summary of 11 bytes
            "0a09"                //   1: value of 9 bytes
            "0a026162"
            "150000c03f");  //     1: "ab" | 2: 1.5f
  EXPECT_EQ(hex(start_event(1.0, 7)),
            "09000000000000f03f"
            "1007"
            "3a02"
            "0801");  // 7: session_log {1: START}
}

TEST(TensorboardFile, BeginsWithVersionAndStartAndSortsBehindThoseThatAreThere) {
  const TemporaryFolder folder;
  const auto events = folder.path() / "tensorboard";
  std::filesystem::create_directory(events);
  replace_file(events / "events.out.tfevents.9000000000.elsewhere", "of a clock that was ahead");
  TensorboardFile file(events, 5);
  EXPECT_EQ(file.append(5, {{"loss", 2.0}}), "");
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(events)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  ASSERT_EQ(names.size(), 2u);
  EXPECT_TRUE(names[1].starts_with("events.out.tfevents.9000000001.")) << names[1];
  const std::string bytes = read_file(events / names[1]);
  EXPECT_EQ(bytes.size(), event_record(version_event(0)).size() + event_record(start_event(0, 5)).size() +
                              event_record(scalar_event(0, 5, {{"loss", 2.0}})).size());
}

TEST(TensorboardFile, WaitsWhereItCannotWriteAndLosesNothing) {
  const TemporaryFolder folder;
  replace_file(folder.path() / "tensorboard", "a file in the folder's place");
  TensorboardFile file(folder.path() / "tensorboard", 1);
  EXPECT_NE(file.append(1, {{"loss", 2.0}}), "");
  EXPECT_NE(file.append(2, {{"loss", 1.0}}), "");
  std::filesystem::remove(folder.path() / "tensorboard");
  EXPECT_EQ(file.flush(), "");
  uintmax_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path() / "tensorboard")) bytes += entry.file_size();
  EXPECT_EQ(bytes, event_record(version_event(0)).size() + event_record(start_event(0, 1)).size() +
                       2 * event_record(scalar_event(0, 1, {{"loss", 2.0}})).size());
}

/// While it lives, this process' files may have so many bytes: like a full disk, a part of a write succeeds.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    before_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &unlimited_);
    const rlimit limited{bytes, unlimited_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &unlimited_);
    std::signal(SIGXFSZ, before_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit unlimited_{};
  void (*before_)(int) = nullptr;
};

TEST(GrowingFile, TakesBackThePartOfAWriteThatAFullDiskCut) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", "before\n");
  GrowingFile file(path);
  EXPECT_EQ(file.append("one\n"), "");
  {
    const FileSizeLimit full(15);
    EXPECT_NE(file.append("two, of which four bytes fit\n"), "");
    EXPECT_NE(file.append("three\n"), "");
    EXPECT_LE(read_file(path).size(), 15u);
  }
  EXPECT_EQ(file.append("four\n"), "");
  EXPECT_EQ(read_file(path), "before\none\ntwo, of which four bytes fit\nthree\nfour\n");
}

}  // namespace
}  // namespace pimoe
