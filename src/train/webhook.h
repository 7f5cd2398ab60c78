#pragma once

#include "base/log.h"

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

namespace pimoe {

/// @returns why messages cannot be sent to `url`, as the rest of a sentence that begins with the key; "" where they can
std::string webhook_trouble(const std::string& url);

/// Sends messages to a URL, one POST of JSON each, in order, from a thread of its own: whoever hands one over waits for nothing but a small file. A message
/// is sent until the other side answers 2xx, after 1, 2, 4, ... 60 s; those that have not been are in a file, so that neither a sink that is down nor
/// the end of the process loses one. One may be sent twice, where the process dies between the answer and the file.
class Webhook {
 public:
  /// @param unsent  the file; what an earlier process left in it is sent first. @param log  outlives it; is told once that nobody answers, and once that
  ///                somebody does
  Webhook(std::string url, std::filesystem::path unsent, Logger& log);
  /// Tries for kLastSeconds to send what is left, and leaves the rest in the file.
  ~Webhook();
  Webhook(const Webhook&) = delete;
  Webhook& operator=(const Webhook&) = delete;

  static constexpr double kLastSeconds = 5.0;

  /// @param message  one line of JSON @cost a durable write of a small file
  void send(const std::string& message);

 private:
  void work();
  /// REQUIRES mutex_
  void keep_unsent();

  const std::string url_;
  const std::filesystem::path file_;
  Logger& log_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> unsent_;
  bool is_over_ = false;
  bool is_told_ = false;       ///< that nobody answers
  bool is_file_told_ = false;  ///< that the file cannot be written
  std::thread thread_;
};

}  // namespace pimoe
