#pragma once

#include "base/config_fields.h"
#include "serve/completion_service.h"
#include "train/alerts.h"

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// `monitor:` of the file that `pimoe serve --monitor` names: the alerts of a server, written as those of a run are (docs/serving.md).
struct ServeMonitorConfig {
  std::vector<AlertConfig> alerts;
  std::string webhook;           ///< URL; empty: none
  std::filesystem::path folder;  ///< of alerts.jsonl, and of what a restart has to know; empty: nothing is kept

  void fields(FieldVisitor& visit);
};

/// @throws ConfigError listing all that is wrong with the file
ServeMonitorConfig read_serve_monitor(const std::filesystem::path& file);

/// Looks at a server once a second, and tells of its alerts.
class ServeMonitor {
 public:
  /// @param source  what messages name  @param log  outlives it
  ServeMonitor(const ServeMonitorConfig& config, const std::string& source, Logger& log);

  /// Looks if a second has gone by. @param values  called only then: the server's numbers since it was called last
  void look(const std::function<Scalars()>& values);
  /// Whether an alert that is to stop the server has fired.
  bool stops() const { return alerts_ && alerts_->stops(); }

 private:
  std::optional<Alerts> alerts_;
  const double begun_;   ///< on the steady clock
  double looked_ = 0.0;  ///< likewise
};

}  // namespace pimoe
