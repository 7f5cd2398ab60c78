#include "train/monitor_config.h"

#include "base/text.h"
#include "train/metrics.h"

#include <arpa/inet.h>

namespace pimoe {

AlertMetrics metrics_of_runs() { return {.names = metric_names(), .page = "docs/metrics.md"}; }

void MonitorConfig::fields(FieldVisitor& visit) {
  visit.word_list("metrics", metrics, metric_words(), "what the summary of log_interval tells");
  visit.integer("log_interval", log_interval, {.at_least = 0, .at_most = kMostSteps},
                "steps that the log sums up in a line: latency, throughput, memory, use of experts; 0: none");
  visit.list("alerts", alerts,
             "[{when: CONDITION, do: [log, webhook]}, ...]: told once when one fires and once when it clears (docs/seeing.md)");
  visit.text("webhook", webhook, "URL that gets a POST of JSON for each alert with webhook; empty: none");
  visit.integer("prometheus_port", prometheus_port, {.at_least = 0, .at_most = 65535}, "port on which rank 0 serves /metrics; 0: none");
  visit.text("prometheus_address", prometheus_address, "address of this machine that it listens on, by number; 0.0.0.0: all");
  visit.path("prometheus_textfile", prometheus_textfile,
             "file.prom that rank 0 replaces at most once a second, for node_exporter; empty: none");
}

void MonitorConfig::validate(Violations& violations) const {
  check_alerts(alerts, "monitor.alerts", webhook, metrics_of_runs(), violations);
  in_addr address{};
  if (::inet_pton(AF_INET, prometheus_address.c_str(), &address) != 1) {
    violations.add("monitor.prometheus_address",
                   concat("('", prometheus_address, "') must be an IPv4 address such as 127.0.0.1 or 0.0.0.0"));
  }
  if (!prometheus_textfile.empty() && prometheus_textfile.extension() != ".prom") {
    violations.add("monitor.prometheus_textfile",
                   concat("('", prometheus_textfile.string(), "') must end in .prom: node_exporter reads no other files"));
  }
}

}  // namespace pimoe
