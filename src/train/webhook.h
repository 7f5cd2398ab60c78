#pragma once

#include "base/log.h"
#include "train/waiting_messages.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <string>
#include <thread>

namespace pimoe {

/// @returns why messages cannot be sent to `url`, as the rest of a sentence that begins with the key; "" where they can
std::string webhook_trouble(const std::string& url);

/// @returns what may be shown of a URL, whose path is a password with Slack and its like: scheme, host and port
std::string webhook_place(const std::string& url);

/// Sends messages to a URL, one POST of JSON each, in order, from a thread of its own: whoever hands one over waits for nothing but a line of a file.
///
/// A message is sent until the other side answers 2xx, after 1, 2, 4, ... 60 s, or with a refusal that another try would not change (a 4xx but 408 and
/// 429), which is told with the message. Those that have not been sent are in a file (waiting_messages.h), so that neither a sink that is down nor the end of
/// the process loses one; of more than WaitingMessages::kMost the first is dropped, and told. One may be sent twice, where the process dies between the
/// answer and the file.
class Webhook {
 public:
  /// @param unsent  the file; what an earlier process left in it is sent first. @param log  outlives it; is told once that nobody answers, and once that
  ///                somebody does  @param last_seconds  that the destructor tries at most to send what is left
  Webhook(std::string url, std::filesystem::path unsent, Logger& log, double last_seconds = kLastSeconds);
  /// Tries to send what is left, and leaves the rest in the file. A post that is under way is given up a second or so after its time.
  ~Webhook();
  Webhook(const Webhook&) = delete;
  Webhook& operator=(const Webhook&) = delete;

  static constexpr double kLastSeconds = 5.0;

  /// @param message  one line of JSON @cost a durable append to a file
  void send(const std::string& message);

 private:
  using Clock = std::chrono::steady_clock;

  void work();
  bool is_over() const { return end_.load() != Clock::time_point::max(); }

  const std::string url_;
  const std::string place_;
  Logger& log_;
  const double last_seconds_;
  std::mutex mutex_;
  std::condition_variable changed_;
  WaitingMessages waiting_;
  std::atomic<Clock::time_point> end_ = Clock::time_point::max();  ///< of all tries, once there is one
  std::thread thread_;
};

}  // namespace pimoe
