#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <vector>

namespace pimoe {

/// How often each of a number of clients may ask: so many requests a minute, a minute's worth of them (at least one) at once. Thread-safe.
class RateLimit {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// @param requests_per_minute  of each client; nothing: as often as it likes
  explicit RateLimit(std::vector<std::optional<double>> requests_per_minute);

  /// Takes one request of a client. @returns nothing where it may go on, else the seconds after which it may ask again
  std::optional<double> take(size_t client, Time now = std::chrono::steady_clock::now());

 private:
  struct Client {
    std::optional<double> per_second;
    double most = 0.0;
    double left = 0.0;
    std::optional<Time> seen;
  };
  std::mutex mutex_;
  std::vector<Client> clients_;
};

}  // namespace pimoe
