#include "train/waiting_messages.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "train/metrics_repair.h"

#include <nlohmann/json.hpp>

#include <exception>
#include <utility>

namespace pimoe {
namespace {

constexpr uint64_t kMostBytes = 1 << 24;  // of a file that is read
constexpr const char* kGone = "-";

}  // namespace

WaitingMessages::WaitingMessages(std::filesystem::path file, Logger& log, size_t most) : file_(std::move(file)), log_(log), most_(most) {
  try {
    if (is_there(file_)) read();
  } catch (const std::exception& error) {  // alerts of an earlier process are no reason to end this one
    may_write_ = false;
    log_.warning(concat(error.what(), ": alerts in it are not sent, and those that are not sent before the end are lost"));
  }
}

void WaitingMessages::read() {
  std::string text;
  try {
    text = read_regular_file(file_, kMostBytes);
  } catch (const IoError& error) {  // the contract: a file that cannot be read is put aside
    const std::filesystem::path damaged = free_name(file_, ".damaged");
    std::filesystem::rename(file_, damaged);
    log_.warning(concat(error.what(), ": it is now ", damaged.filename().string(), ", and alerts in it are not sent"));
    return;
  }
  read_lines(text);
  is_file_whole_ = false;
  keep("", 0);  // without what is gone
}

void WaitingMessages::read_lines(const std::string& text) {
  int64_t damaged_lines = 0;
  for (std::string& line : split(text, '\n')) {
    if (line == kGone) {
      if (!messages_.empty()) messages_.pop_front();
    } else if (nlohmann::json::accept(line)) {
      messages_.push_back(std::move(line));
    } else if (!line.empty()) {
      ++damaged_lines;
    }
  }
  const size_t found = messages_.size();
  if (found > most_) messages_.erase(messages_.begin(), messages_.end() - static_cast<std::ptrdiff_t>(most_));
  if (damaged_lines == 0 && found <= most_) return;
  const std::filesystem::path damaged = free_name(file_, ".damaged");
  replace_file(damaged, text);
  if (damaged_lines > 0) log_.warning(concat(file_.string(), ": ", counted(damaged_lines, "line"), " of it cannot be read, and left out"));
  if (found > most_) {
    log_.warning(concat(file_.string(), ": ", counted(static_cast<int64_t>(found), "alert"), " in it wait to be sent, of which the last ",
                        grouped(static_cast<int64_t>(most_)), " are"));
  }
  log_.warning(concat(file_.string(), " as it was is ", damaged.filename().string()));
}

void WaitingMessages::add(const std::string& message) {
  std::string lines;
  size_t count = 1;
  if (messages_.size() >= most_) {
    log_.warning(concat(grouped(static_cast<int64_t>(most_)),
                        " alerts wait to be sent, and no more than that: the first is dropped: ", messages_.front()));
    messages_.pop_front();
    ++gone_;
    lines = concat(kGone, "\n");
    ++count;
  }
  messages_.push_back(message);
  keep(lines + message + "\n", count);
}

void WaitingMessages::remove_first() {
  messages_.pop_front();
  ++gone_;
  keep(concat(kGone, "\n"), 1);
}

void WaitingMessages::keep(const std::string& lines, size_t count) {
  if (!may_write_) return;
  try {
    if (messages_.empty()) {
      std::filesystem::remove(file_);
      lines_ = 0;
    } else if (!is_file_whole_ || lines_ == 0 || lines_ + count > 2 * most_) {
      write_all();  // a new file's name survives a crash of the machine with it alone
    } else {
      append_durably(file_, lines);
      lines_ += count;
    }
    is_file_whole_ = true;
    is_told_ = false;
  } catch (const std::exception& error) {  // a full disk: the messages are in memory still
    is_file_whole_ = false;
    if (!std::exchange(is_told_, true)) log_.warning(concat(error.what(), ": alerts that are not sent before the end are lost"));
  }
}

void WaitingMessages::write_all() {
  std::string content;
  for (const std::string& message : messages_) content += message + "\n";
  replace_file(file_, content);
  lines_ = messages_.size();
}

}  // namespace pimoe
