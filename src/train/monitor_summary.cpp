#include "train/monitor_summary.h"

#include "base/text.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pimoe {

void MonitorSummary::add(const StepRecord& record) {
  if (seconds_.empty()) first_step_ = record.step;
  last_step_ = record.step;
  seconds_.push_back(record.step_seconds);
  tokens_ += static_cast<double>(record.step_tokens);
  memory_bytes_ = std::max(memory_bytes_, record.memory_bytes);
  if (!record.routing) return;
  utilization_.resize(record.routing->utilization.size());
  for (size_t i = 0; i < utilization_.size(); ++i) utilization_[i] += record.routing->utilization[i];
}

std::string MonitorSummary::take() {
  std::vector<std::string> parts;
  for (const std::string& metric : metrics_) {
    if (std::string part = told(metric); !part.empty()) parts.push_back(std::move(part));
  }
  std::string line = concat("monitor: steps ", first_step_, " to ", last_step_, ": ", join(parts, ", "));
  *this = MonitorSummary(std::move(metrics_));
  return line;
}

std::string MonitorSummary::told(const std::string& metric) const {
  const auto steps = static_cast<double>(seconds_.size());
  const double total = std::accumulate(seconds_.begin(), seconds_.end(), 0.0);
  if (metric == "latency") {
    std::vector<double> sorted = seconds_;
    std::sort(sorted.begin(), sorted.end());
    const double p95 = sorted[static_cast<size_t>(std::ceil(0.95 * steps)) - 1];  // nearest rank
    return concat("latency ", fixed(1e3 * total / steps, 1), " ms (p95 ", fixed(1e3 * p95, 1), " ms)");
  }
  if (metric == "throughput") return concat("throughput ", grouped(static_cast<int64_t>(tokens_ / total)), " tok/s");
  if (metric == "memory") return concat("memory ", human_bytes(static_cast<double>(memory_bytes_)));
  if (utilization_.empty()) return "";  // a dense model
  const double mean = std::accumulate(utilization_.begin(), utilization_.end(), 0.0) / static_cast<double>(utilization_.size()) / steps;
  const double worst = *std::min_element(utilization_.begin(), utilization_.end()) / steps;
  return concat("expert utilization ", fixed(mean, 3), " (worst layer ", fixed(worst, 3), ")");
}

}  // namespace pimoe
