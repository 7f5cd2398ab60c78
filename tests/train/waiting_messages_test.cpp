#include "train/waiting_messages.h"

#include "base/file_io.h"
#include "base/text.h"
#include "support/temporary_folder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {
namespace {

std::string message(size_t number) { return concat("{\"n\": ", number, "}"); }

class WaitingMessagesTest : public ::testing::Test {
 protected:
  WaitingMessagesTest() { log_->open_file(folder_ / "log"); }

  WaitingMessages waiting(size_t most = WaitingMessages::kMost) { return {folder_ / "waiting", *log_, most}; }
  /// What the next process would find.
  std::vector<std::string> found() {
    WaitingMessages next = waiting();
    std::vector<std::string> messages;
    for (; !next.empty(); next.remove_first()) messages.push_back(next.first());
    return messages;
  }
  void write(const std::string& content) { write_durably(folder_ / "waiting", content.data(), content.size()); }
  std::string log() {
    log_ = std::make_unique<Logger>(1);  // the file's end
    return read_file(folder_ / "log");
  }

  TemporaryFolder folder_;
  std::unique_ptr<Logger> log_ = std::make_unique<Logger>(1);
};

TEST_F(WaitingMessagesTest, AreThereInOrderAfterTheEndOfTheProcess) {
  {
    WaitingMessages first = waiting();
    for (size_t number = 1; number <= 4; ++number) first.add(message(number));
    first.remove_first();
    EXPECT_EQ(first.first(), message(2));
  }
  {
    WaitingMessages second = waiting();
    EXPECT_EQ(second.size(), 3u);
    second.remove_first();
    second.add(message(5));
  }
  EXPECT_EQ(found(), (std::vector<std::string>{message(3), message(4), message(5)}));
  EXPECT_FALSE(is_there(folder_ / "waiting")) << "none waits any more";
}

TEST_F(WaitingMessagesTest, AreALineMoreEachAndNotTheFileAgain) {
  WaitingMessages messages = waiting();
  messages.add(message(1));
  std::filesystem::create_hard_link(folder_ / "waiting", folder_ / "link");
  for (size_t number = 2; number <= 9; ++number) messages.add(message(number));
  messages.remove_first();
  EXPECT_EQ(read_file(folder_ / "link"), read_file(folder_ / "waiting")) << "it is the same file still";
  EXPECT_EQ(split(read_file(folder_ / "link"), '\n').size(), 11u) << "nine, a mark, and the empty end";
}

TEST_F(WaitingMessagesTest, AreSoManyAtMostAndTheFirstIsDroppedAndTold) {
  const size_t most = 20;
  const size_t more = most / 2 + 5;  // two lines of the file each
  std::string content;
  for (size_t number = 1; number <= most; ++number) content += message(number) + "\n";
  write(content);
  {
    WaitingMessages messages = waiting(most);
    for (size_t number = most + 1; number <= most + more; ++number) messages.add(message(number));
    EXPECT_EQ(messages.size(), most);
    EXPECT_EQ(messages.first(), message(more + 1));
    EXPECT_EQ(messages.gone(), static_cast<int64_t>(more));
    EXPECT_LT(split(read_file(folder_ / "waiting"), '\n').size(), 2 * most) << "the file is written anew now and then";
  }
  const std::vector<std::string> left = found();
  ASSERT_EQ(left.size(), most);
  EXPECT_EQ(left.front(), message(more + 1));
  EXPECT_EQ(left.back(), message(most + more));
  EXPECT_NE(log().find("the first is dropped: " + message(more) + "\n"), std::string::npos);
}

TEST_F(WaitingMessagesTest, PutAFileAsideThatCannotBeRead) {
  write(std::string((1 << 24) + 1, 'x'));
  {
    WaitingMessages messages = waiting();
    EXPECT_TRUE(messages.empty());
    messages.add(message(1));
  }
  EXPECT_EQ(std::filesystem::file_size(folder_ / "waiting.damaged"), (1u << 24) + 1);
  EXPECT_EQ(found(), std::vector<std::string>{message(1)});
  EXPECT_NE(log().find("it is now waiting.damaged"), std::string::npos);
}

TEST_F(WaitingMessagesTest, LeaveOutALineThatAKillHasCut) {
  const std::string content = message(1) + "\n" + message(2) + "\n{\"n\": ";
  write(content);
  EXPECT_EQ(found(), (std::vector<std::string>{message(1), message(2)}));
  EXPECT_EQ(read_file(folder_ / "waiting.damaged"), content);
}

TEST_F(WaitingMessagesTest, WaitInMemoryWhereTheFileCannotBeWrittenAndAreInItAsSoonAsItCan) {
  WaitingMessages messages = waiting();
  messages.add(message(1));
  messages.add(message(2));
  std::filesystem::rename(folder_ / "waiting", folder_ / "away");
  std::filesystem::create_directory(folder_ / "waiting");
  messages.add(message(3));
  messages.remove_first();
  EXPECT_EQ(messages.size(), 2u);
  std::filesystem::remove(folder_ / "waiting");
  messages.add(message(4));
  EXPECT_EQ(found(), (std::vector<std::string>{message(2), message(3), message(4)}));
}

}  // namespace
}  // namespace pimoe
