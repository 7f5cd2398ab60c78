#include "serve/serve_monitor.h"

#include "base/errors.h"
#include "base/text.h"

#include <chrono>
#include <system_error>

namespace pimoe {
namespace {

constexpr double kLookSeconds = 1.0;

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

AlertMetrics metrics_of_servers() { return {.names = service_metric_names(), .page = "docs/serving.md"}; }

}  // namespace

void ServeMonitorConfig::fields(FieldVisitor& visit) {
  visit.list("alerts", alerts, "[{when: CONDITION, do: [log, webhook]}, ...], on the numbers of docs/serving.md");
  visit.text("webhook", webhook, "URL that gets a POST of JSON for each alert with webhook; empty: none");
  visit.path("folder", folder, "of alerts.jsonl, and of what a restart has to know; empty: nothing is kept");
}

ServeMonitorConfig read_serve_monitor(const std::filesystem::path& file) {
  ServeMonitorConfig config;
  const ConfigOrigins origins =
      load_fields({read_config_source(file)}, {}, [&config](FieldVisitor& visit) { visit.nested("monitor", config); });
  Violations violations;
  check_alerts(config.alerts, "monitor.alerts", config.webhook, metrics_of_servers(), violations);
  for (size_t i = 0; i < config.alerts.size(); ++i) {
    if (config.folder.empty() && (config.alerts[i].does("file") || config.alerts[i].does("webhook"))) {
      violations.add(concat("monitor.alerts[", i, "].do"), "has file or webhook, for which monitor.folder must name a folder");
    }
  }
  refuse(violations, origins);
  return config;
}

ServeMonitor::ServeMonitor(const ServeMonitorConfig& config, const std::string& source, Logger& log) : begun_(steady_seconds()) {
  if (config.alerts.empty()) return;
  const auto file = [&](const char* name) { return config.folder.empty() ? std::filesystem::path() : config.folder / name; };
  if (!config.folder.empty()) {
    std::error_code wrong;
    std::filesystem::create_directories(config.folder, wrong);
    if (wrong) throw IoError(concat("monitor.folder (", config.folder.string(), ") cannot be made: ", wrong.message()), wrong.value());
  }
  alerts_.emplace(config.alerts,
                  AlertPlaces{.state = file("alerts.json"),
                              .lines = file("alerts.jsonl"),
                              .unsent = file("alerts.unsent.jsonl"),
                              .webhook = config.webhook,
                              .source = source,
                              .unit = "second"},
                  metrics_of_servers(), log);
}

void ServeMonitor::look(const std::function<Scalars()>& values) {
  if (!alerts_) return;
  const double now = steady_seconds();
  if (now - looked_ < kLookSeconds) return;
  looked_ = now;
  alerts_->observe(static_cast<int64_t>(now - begun_), now, values());
}

}  // namespace pimoe
