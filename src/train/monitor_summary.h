#pragma once

#include "train/metrics.h"

#include <string>
#include <vector>

namespace pimoe {

/// Sums up steps in a line for people (`monitor.log_interval`):
///     monitor: steps 101 to 200: latency 41.2 ms (p95 48.0 ms), throughput 12,400 tok/s, memory 1.2 GB, expert utilization 1.000 (worst layer 0.875)
class MonitorSummary {
 public:
  /// @param metrics  of metric_words(), in the order in which they are told
  explicit MonitorSummary(std::vector<std::string> metrics) : metrics_(std::move(metrics)) {}

  void add(const StepRecord& record);
  /// @returns the line of the steps since the last one, and forgets them. REQUIRES one
  std::string take();

 private:
  std::string told(const std::string& metric) const;

  std::vector<std::string> metrics_;
  int64_t first_step_ = 0;
  int64_t last_step_ = 0;
  std::vector<double> seconds_;
  double tokens_ = 0.0;
  int64_t memory_bytes_ = 0;
  std::vector<double> utilization_;  ///< of each MoE layer, summed over the steps
};

}  // namespace pimoe
