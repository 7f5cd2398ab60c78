#include "base/work_progress.h"

#include "base/progress.h"
#include "base/text.h"
#include "base/utf8.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <utility>

namespace pimoe {
namespace {

constexpr double kSecondsBeforeFirst = 2.0;
constexpr double kSecondsBetweenBars = 0.2;
constexpr double kSecondsBetweenLines = 10.0;
constexpr int kBarWidth = 20;
constexpr int kUsualColumns = 80;

std::atomic<bool> is_bar_drawn = false;  // what stands on the process' terminal is a fact about the process

thread_local WorkProgress* innermost = nullptr;

int terminal_columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : kUsualColumns;
}

std::string amount(WorkUnit unit, int64_t count) {
  return unit == WorkUnit::kBytes ? human_bytes(static_cast<double>(count)) : grouped(count);
}

/// What follows the title and the bar.
std::string figures(WorkUnit unit, int64_t done, int64_t total, double seconds, const std::string& remark, int64_t before) {
  const double rate = static_cast<double>(done - before) / std::max(seconds, 1e-3);
  std::string text = amount(unit, done);
  if (total > 0)
    text += concat(" of ", amount(unit, total), " (", percent_text(static_cast<double>(done) / static_cast<double>(total)), ")");
  text += concat("  ",
                 unit == WorkUnit::kBytes ? human_bytes(rate)
                 : rate < 100             ? fixed(rate, 1)
                                          : grouped(static_cast<int64_t>(rate)),
                 "/s");
  if (!remark.empty()) text += "  " + remark;
  if (total > 0 && done > before) text += concat("  left ", human_duration(static_cast<double>(std::max<int64_t>(0, total - done)) / rate));
  return text;
}

}  // namespace

void erase_terminal_bar() {
  if (is_bar_drawn.exchange(false)) std::fputs("\r\033[K", stderr);
}

void count_work(int64_t amount) {
  if (innermost == nullptr) return;
  innermost->counted_ += amount;
  innermost->at(innermost->counted_, innermost->total_);
}

WorkProgress::WorkProgress(std::string title, WorkUnit unit, Logger& log, int64_t total)
    : title_(std::move(title)), unit_(unit), log_(log), total_(total), around_(std::exchange(innermost, this)) {}

WorkProgress::~WorkProgress() {
  innermost = around_;
  erase_terminal_bar();
}

void WorkProgress::at(int64_t done, int64_t total, const std::string& remark) {
  progress_tick();
  const auto now = Clock::now();
  const bool has_terminal = log_.has_terminal();
  const double pause = !said_ ? kSecondsBeforeFirst : has_terminal ? kSecondsBetweenBars : kSecondsBetweenLines;
  if (std::chrono::duration<double>(now - last_).count() < pause) return;
  last_ = now;
  said_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (!has_terminal) return log_.info("  " + line(title_, unit_, done, total, seconds, remark, before_));
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0.0;
  std::string text =
      printable(concat(title_, "  ", total > 0 ? bar(share, kBarWidth) + "  " : "", figures(unit_, done, total, seconds, remark, before_)));
  text.resize(character_boundary(text, std::min(text.size(), static_cast<size_t>(terminal_columns() - 1))));
  std::fprintf(stderr, "\r%s\033[K", text.c_str());
  std::fflush(stderr);
  is_bar_drawn = true;
}

std::string WorkProgress::line(const std::string& title, WorkUnit unit, int64_t done, int64_t total, double seconds,
                               const std::string& remark, int64_t before) {
  return concat(title, ": ", figures(unit, done, total, seconds, remark, before));
}

std::string WorkProgress::bar(double share, int width) {
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * width);
  return concat("[", std::string(static_cast<size_t>(full), '#'), std::string(static_cast<size_t>(width - full), ' '), "]");
}

}  // namespace pimoe
