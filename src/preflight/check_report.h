#pragma once

#include "preflight/device_table.h"
#include "preflight/preflight.h"
#include "preflight/remedies.h"
#include "preflight/step_time.h"
#include "preflight/sweep.h"
#include "train/micro_batch.h"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// One column: memory and rows at one skew.
struct CheckedSkew {
  std::string name;  ///< "at balance", "skew 2", "worst skew"
  double skew = 1.0;
  MemoryForecast memory;
  RoutedRows rows;
};

/// All that `pimoe check` found out.
struct CheckReport {
  std::string config;
  int64_t ranks = 1;
  DeviceSpec device;
  std::string precision;
  Preflight found;

  // Absent where the layout or the vocabulary is not known.
  std::optional<Forecast> forecast;
  std::vector<CheckedSkew> skews;
  size_t judged = 0;        ///< the column that the verdict is about: of those that have to fit the fullest
  bool any_skew = false;    ///< it is about every skew, of which the worst is not the fullest
  int64_t limit_bytes = 0;  ///< of a rank; 0: not known
  int64_t saves = 0;        ///< checkpoints that the run writes
  int64_t disk_bytes = 0;   ///< that they take at one time, beyond those that are there
  bool has_experts = false;
  std::vector<Remedy> remedies;          ///< where it does not fit
  std::optional<StepTimeForecast> time;  ///< at balance; absent where the device's rates are not known
  DeviceRates rates;                     ///< that it was foretold with
  bool swept = false;
  std::vector<SweptLayout> sweep;  ///< --sweep: what fits, fastest first

  int64_t overhead(size_t column) const { return overhead_bytes(skews[column].memory, device.is_gpu); }  ///< allowed for what is no tensor
  int64_t peak(size_t column) const { return device_bytes(skews[column].memory, device.is_gpu); }
  bool memory_fits() const { return !forecast || limit_bytes == 0 || peak(judged) <= limit_bytes; }
  bool disk_fits() const { return found.folder.free_bytes < 0 || disk_bytes <= found.folder.free_bytes; }
  /// What is wrong with the configuration or data comes before what does not fit.
  ExitCode exit_code() const;
};

std::string to_text(const CheckReport& report);
nlohmann::ordered_json to_json(const CheckReport& report);

}  // namespace pimoe
