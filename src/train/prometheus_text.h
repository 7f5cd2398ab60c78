#pragma once

#include "train/metrics.h"

#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// What Prometheus is told beside a step's record.
struct PrometheusFacts {
  std::string run;    ///< the run folder's name: the label of every sample
  int64_t steps = 0;  ///< that the run is to do
  int64_t ranks = 0;
  double time = 0.0;                                      ///< of the record, seconds since 1970
  int64_t skipped = 0;                                    ///< steps, of this process
  int64_t alarms = 0;                                     ///< likewise
  std::vector<std::pair<std::string, bool>> alerts = {};  ///< the rules of monitor.alerts, and whether each fires
};

/// @returns the record in Prometheus' text format 0.0.4, with HELP and TYPE (docs/seeing.md has the names). What is unknown is left out; what is
///          not finite is NaN or +Inf. For each MoE layer two samples, for each expert none.
std::string to_prometheus(const StepRecord& record, const PrometheusFacts& facts);

}  // namespace pimoe
