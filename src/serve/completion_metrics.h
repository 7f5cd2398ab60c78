#pragma once

#include "serve/completion_source.h"
#include "serve/http_server.h"
#include "train/scalars.h"

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// What the server counts, for Prometheus. Thread-safe. docs/serving.md lists the names.
class CompletionMetrics {
 public:
  /// @param route  one of the server's own names, never what a client sent
  void count_request(const std::string& route, int status);
  void count_tokens(int64_t prompt, int64_t generated);
  void saw_first_token(double seconds);
  void saw_next_token(double seconds);
  void saw_end(double seconds);

  /// What alerts are about, since this was called last (service_metric_names): what did not happen since then has no number. One caller.
  Scalars since_last(const CompletionSource& source, double seconds);

  /// @returns Prometheus' text format 0.0.4
  std::string text(const HttpServer::Counts& http, const CompletionSource& source) const;

 private:
  static constexpr std::array kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0};
  struct Histogram {
    std::array<uint64_t, kBounds.size() + 1> counts{};
    double sum = 0.0;
    void add(double value);
    uint64_t count() const;
    Histogram minus(const Histogram& before) const;
    /// The bound below which so many of the values lie. REQUIRES one
    double quantile(double share) const;
    void write(std::string& text, const char* name, const char* help) const;
  };

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, uint64_t> requests_;
  uint64_t prompt_tokens_ = 0;
  uint64_t generated_tokens_ = 0;
  Histogram first_;
  Histogram next_;
  Histogram whole_;

  struct Look {
    uint64_t requests = 0, errors = 0;
    uint64_t generated = 0;
    std::vector<int64_t> expert_slots;
    Histogram first, next;
  };
  Look last_look_;  ///< of since_last
};

/// @returns the names of what since_last gives: those of alerts' conditions (docs/serving.md)
std::vector<std::string> service_metric_names();

}  // namespace pimoe
