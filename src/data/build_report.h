#pragma once

#include "base/log.h"
#include "base/work_progress.h"
#include "data/documents.h"
#include "data/tokenizer.h"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace pimoe {

/// What `pimoe data build` tells of while it encodes.

/// One line at the start, then how far, how fast, how long still.
class BuildProgress {
 public:
  /// @param input, log  outlive it  @param bytes_done  by an earlier build, which this one goes on with
  BuildProgress(const InputFiles& input, int64_t bytes_done, Logger& log);

  void at(size_t files_done, int64_t bytes_done, int64_t tokens);
  double seconds_so_far() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  const InputFiles& input_;
  WorkProgress told_;
  Clock::time_point start_ = Clock::now();
};

/// Warns, once, where a tokenizer made elsewhere loses something of the text.
class LossWatch {
 public:
  /// @param tokenizer, log  outlive it  @param model  its name  @param has_looked  an earlier build has
  LossWatch(const Tokenizer& tokenizer, std::filesystem::path model, bool has_looked, Logger& log);

  void look(std::string_view text, const std::filesystem::path& file);

 private:
  const Tokenizer& tokenizer_;
  std::filesystem::path model_;
  Logger& log_;
  bool has_looked_;
};

/// Says which files with text at their start are no text further on, the first ten by name.
class SkippedFiles {
 public:
  /// @param before  that an earlier build has named  @param log  outlives it
  SkippedFiles(int64_t before, Logger& log) : log_(log), count_(before) {}

  void add(const std::filesystem::path& file, const NotText& reason);
  int64_t count() const { return count_; }
  /// For the closing line; "" where nothing was skipped.
  std::string text() const;

 private:
  Logger& log_;
  int64_t count_;
};

}  // namespace pimoe
