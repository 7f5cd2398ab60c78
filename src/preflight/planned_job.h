#pragma once

#include "preflight/check_report.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace pimoe {

/// The job that a run is checked for.
struct PlannedJob {
  int64_t ranks = 1;
  int64_t node_ranks = 1;
  DeviceSpec device;
  std::optional<int64_t> memory_bytes;  ///< that a rank has; nothing: the device's
  double skew = kWorstSkew;             ///< that has to fit
  std::string skew_name;                ///< as it was asked for
  std::filesystem::path ceilings = {};  ///< a document of `pimoe bench ceilings`; empty: the device's shipped rates
  bool sweep = false;                   ///< all layouts are compared
};

/// @returns ranks of a node where nobody says: all of them, or where there are more than 8 the most that share them out evenly
int64_t usual_node(int64_t ranks);

/// @returns checkpoints that a run from its first step writes
int64_t checkpoints_written(const TrainConfig& config);

/// Rules between the configuration and the machine that ProcessMesh would see, and what is allowed but seldom meant.
void look_at_layout(const TrainConfig& config, const PlannedJob& job, Preflight& found);

/// Memory of the fullest rank at each skew, and which of them the verdict is about; traffic, time, checkpoints, what helps where it does not fit, and
/// other layouts where they are asked for.
/// Fills in the report from `precision` on. What the layout cannot be is a trouble. After look_at_run_folder, which counts the checkpoints that are there.
/// @cost builds the model on the meta device, for each remedy again
void foretell(const TrainConfig& config, const PlannedJob& job, CheckReport& report);

}  // namespace pimoe
