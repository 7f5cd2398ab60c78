#pragma once

#include "base/config_fields.h"

#include <filesystem>
#include <string>

namespace pimoe {

/// `monitor:` what rank 0 shows a Prometheus; nothing by default.
struct MonitorConfig {
  int64_t prometheus_port = 0;                   ///< that /metrics is served on; 0: none
  std::string prometheus_address = "127.0.0.1";  ///< of this machine, by number
  std::filesystem::path prometheus_textfile;     ///< for node_exporter's textfile collector; empty: none

  bool is_on() const { return prometheus_port > 0 || !prometheus_textfile.empty(); }
  void validate(Violations& violations) const;
  void fields(FieldVisitor& visit);
};

}  // namespace pimoe
