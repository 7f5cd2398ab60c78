#pragma once

#include <array>
#include <string>
#include <vector>

namespace pimoe {

/// A word for a number of a record, for those who do not know its key: in `monitor.metrics`, and in the conditions of alerts.
struct MetricWord {
  const char* word;
  const char* key;  ///< of metrics.jsonl
};

inline constexpr std::array<MetricWord, 4> kMetricWords = {{{"latency", "step_seconds"},
                                                            {"throughput", "tokens_per_second"},
                                                            {"memory", "memory_bytes"},
                                                            {"expert_utilization", "moe/utilization"}}};

/// The words alone.
inline std::vector<std::string> metric_words() {
  std::vector<std::string> words;
  for (const MetricWord& each : kMetricWords) words.emplace_back(each.word);
  return words;
}

}  // namespace pimoe
