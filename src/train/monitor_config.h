#pragma once

#include "base/config_fields.h"
#include "train/alert_config.h"
#include "train/metric_words.h"

#include <filesystem>
#include <string>
#include <vector>

namespace pimoe {

/// `monitor:` what rank 0 shows and tells of the run beside its log; nothing by default.
struct MonitorConfig {
  std::vector<std::string> metrics = metric_words();  ///< of the summary
  int64_t log_interval = 0;                           ///< steps between summaries in the log; 0: none
  std::vector<AlertConfig> alerts;                    ///< told once when they begin and once when they are over
  std::string webhook;                                ///< URL that alerts are sent to; empty: none
  int64_t prometheus_port = 0;                        ///< that /metrics is served on; 0: none
  std::string prometheus_address = "127.0.0.1";       ///< of this machine, by number
  std::filesystem::path prometheus_textfile;          ///< for node_exporter's textfile collector; empty: none

  /// Whether a Prometheus is shown something.
  bool is_on() const { return prometheus_port > 0 || !prometheus_textfile.empty(); }
  void validate(Violations& violations) const;
  void fields(FieldVisitor& visit);
};

/// What conditions of `monitor.alerts` can be about: the numbers of metrics.jsonl.
AlertMetrics metrics_of_runs();

}  // namespace pimoe
