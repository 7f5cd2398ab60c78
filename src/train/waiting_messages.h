#pragma once

#include "base/log.h"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <string>

namespace pimoe {

/// Messages that wait to be sent, in order, in memory and in a file, so that the end of the process loses none. The file is lines:
///
///     {...}    a message that waits
///     -        the first of those above it that waits does so no longer
///
/// so that a change is a line more, however many wait. Where none waits there is no file. For one thread at a time; nothing throws: what cannot be
/// written waits in memory alone, which is told once.
class WaitingMessages {
 public:
  static constexpr size_t kMost = 1000;

  /// Takes up what an earlier process left. What cannot be read is kept as FILE.damaged (.damaged-2, ... if taken), and told. @param log  outlives it
  /// @param most  that wait
  WaitingMessages(std::filesystem::path file, Logger& log, size_t most = kMost);

  bool empty() const { return messages_.empty(); }
  size_t size() const { return messages_.size(); }
  /// REQUIRES one
  const std::string& first() const { return messages_.front(); }
  /// @returns how many have left so far, sent or dropped: while it stays the same, `first` does
  int64_t gone() const { return gone_; }
  const std::filesystem::path& file() const { return file_; }

  /// Of more than `most` the first is dropped, and told. @param message  one line of JSON
  /// @cost a durable append of a line or two; a durable write of all at most once in `most` changes
  void add(const std::string& message);
  /// REQUIRES one @cost as add
  void remove_first();

 private:
  void read();
  void read_lines(const std::string& text);
  /// @param lines  of the file, that make it what `messages_` is  @param count  of them
  void keep(const std::string& lines, size_t count);
  void write_all();

  const std::filesystem::path file_;
  Logger& log_;
  const size_t most_;
  std::deque<std::string> messages_;
  int64_t gone_ = 0;
  size_t lines_ = 0;           ///< in the file
  bool is_file_whole_ = true;  ///< its lines say what `messages_` is
  bool may_write_ = true;      ///< false: something is there that could neither be read nor moved away
  bool is_told_ = false;       ///< that the file cannot be written
};

}  // namespace pimoe
