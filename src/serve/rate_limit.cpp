#include "serve/rate_limit.h"

#include <algorithm>

namespace pimoe {

RateLimit::RateLimit(std::vector<std::optional<double>> requests_per_minute) {
  for (const std::optional<double>& rate : requests_per_minute) {
    Client client;
    if (rate) {
      client.per_second = *rate / 60.0;
      client.most = client.left = std::max(1.0, *rate);
    }
    clients_.push_back(client);
  }
}

std::optional<double> RateLimit::take(size_t client, Time now) {
  const std::lock_guard lock(mutex_);
  Client& of = clients_.at(client);
  if (!of.per_second) return std::nullopt;
  if (of.seen) of.left = std::min(of.most, of.left + *of.per_second * std::max(0.0, std::chrono::duration<double>(now - *of.seen).count()));
  of.seen = now;
  if (of.left >= 1.0) {
    of.left -= 1.0;
    return std::nullopt;
  }
  return (1.0 - of.left) / *of.per_second;
}

}  // namespace pimoe
