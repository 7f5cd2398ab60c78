#pragma once

/// Log lines for people: rank 0 to the terminal (stderr), every rank to its own file. spdlog is seen by log.cpp alone, because
/// libtorch's fmt headers shadow the system's and the two cannot be included together.

#include <filesystem>
#include <memory>
#include <string>

namespace pimoe {

/// One logger for a process, made in main (or a test) and passed by reference. Thread-safe.
class Logger {
 public:
  /// @param rank  this process' rank; only rank 0 writes `info` lines to the terminal, every rank writes warnings and errors there,
  ///              ranks above 0 with "rank N:" in front.
  explicit Logger(int rank = 0);
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  /// From now on lines also go to `file` (appended; folders are made), all levels, with a time stamp; so do the first hundred before it.
  /// @throws IoError if it cannot be opened.
  void open_file(const std::filesystem::path& file);

  /// @returns whether `info` lines of this process go to a terminal, where a line can be drawn again
  bool has_terminal() const;

  void debug(const std::string& line);    ///< file alone
  void info(const std::string& line);     ///< rank 0's terminal, and the file
  void warning(const std::string& line);  ///< any rank's terminal, and the file
  void error(const std::string& line);    ///< any rank's terminal, and the file; flushed at once

 private:
  struct Sinks;
  std::unique_ptr<Sinks> sinks_;
};

}  // namespace pimoe
