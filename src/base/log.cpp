#include "base/log.h"

#include <spdlog/details/log_msg_buffer.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/dist_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

#include "base/errors.h"
#include "base/text.h"
#include "base/utf8.h"
#include "base/work_progress.h"

namespace pimoe {
namespace {

std::shared_ptr<spdlog::sinks::sink> terminal(const std::string& pattern) {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>(spdlog::color_mode::automatic);
  sink->set_pattern(pattern);
  return sink;
}

/// Keeps what is said before there is a file for it, up to a number of lines.
class EarlyLines : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void pour_into(spdlog::sinks::sink& file) {
    const std::lock_guard lock(mutex_);
    for (const auto& line : lines_) file.log(line);
    lines_.clear();
    file.flush();
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& line) override {
    if (lines_.size() < kMost) lines_.emplace_back(line);
  }
  void flush_() override {}

 private:
  static constexpr size_t kMost = 100;
  std::vector<spdlog::details::log_msg_buffer> lines_;
};

}  // namespace

// Two terminal loggers, because spdlog has one pattern for each sink: plain lines carry no level, alarms name it in colour.
// The file sits behind a dist_sink, whose lock lets open_file run while other threads log.
struct Logger::Sinks {
  explicit Sinks(int rank)
      : writes_info(rank == 0),
        plain("plain", terminal("%v")),
        alarm("alarm", terminal(rank == 0 ? "%^%l%$: %v" : concat("rank ", rank, ": %^%l%$: %v"))),
        file("file", files) {
    files->add_sink(early);
    file.set_level(spdlog::level::debug);
    file.flush_on(spdlog::level::info);  // one line a step: a follower of the file, and a killed job's heirs, see the last one
    // spdlog itself would write a line of its own to the terminal every second for as long as the disk refuses.
    file.set_error_handler([this](const std::string& why) {
      if (is_lost.exchange(true)) return;
      alarm.warn(printable(concat("the log file cannot be written: ", why, ". Lines will be missing there")));
    });
  }

  const bool writes_info;
  const std::shared_ptr<EarlyLines> early = std::make_shared<EarlyLines>();
  const std::shared_ptr<spdlog::sinks::dist_sink_mt> files = std::make_shared<spdlog::sinks::dist_sink_mt>();
  spdlog::logger plain;
  spdlog::logger alarm;
  spdlog::logger file;
  std::atomic<bool> is_lost = false;  ///< a line of the file, which has been said
};

Logger::Logger(int rank) : sinks_(std::make_unique<Sinks>(rank)) {}
Logger::~Logger() = default;

void Logger::open_file(const std::filesystem::path& path) {
  // spdlog would report an unopenable file as text alone, after five attempts; this asks the system first, for the errno.
  std::error_code refused;
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), refused);
  if (!refused) {
    // A pipe that nobody reads would keep its writer waiting.
    const int probe = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0666);
    if (probe < 0) refused = std::error_code(errno, std::generic_category());
    if (probe >= 0) ::close(probe);
  }
  if (refused.value() == ENXIO)
    throw IoError(concat("log file ", path.string(), " cannot be opened: it is a pipe that nobody reads"), ENXIO);
  if (refused) throw IoError(concat("log file ", path.string(), " cannot be opened: ", refused.message()), refused.value());

  const auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string(), /*truncate=*/false);
  sink->set_pattern("%Y-%m-%d %H:%M:%S.%e %l: %v");
  sinks_->files->set_sinks({sink});
  sinks_->early->pour_into(*sink);
}

bool Logger::has_terminal() const { return sinks_->writes_info && ::isatty(STDERR_FILENO) != 0; }

// Lines quote names and values that others have chosen; none of them may drive a terminal.
void Logger::debug(const std::string& line) { sinks_->file.debug(printable(line, /*keep_lines=*/true)); }

void Logger::info(const std::string& text) {
  const std::string line = printable(text, /*keep_lines=*/true);
  if (sinks_->writes_info) {
    erase_terminal_bar();
    sinks_->plain.info(line);
  }
  sinks_->file.info(line);
}

void Logger::warning(const std::string& text) {
  const std::string line = printable(text, /*keep_lines=*/true);
  erase_terminal_bar();
  sinks_->alarm.warn(line);
  sinks_->file.warn(line);
}

void Logger::error(const std::string& text) {
  const std::string line = printable(text, /*keep_lines=*/true);
  erase_terminal_bar();
  sinks_->alarm.error(line);
  sinks_->file.error(line);
}

}  // namespace pimoe
