#pragma once

#include "train/metrics.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace pimoe {

/// @returns whether a line of metrics.jsonl, parsed, is a record of a step: an object whose `step` is a whole number in [0, kMostSteps]
bool is_step_record(const nlohmann::json& record);

/// metrics.jsonl: one object a step, each step once, in order. Cutting it needs no room on the disk, and what cannot be written is kept in memory
/// and written later, so that a full disk costs a run no record.
class MetricsFile {
 public:
  /// Keeps what the file has of steps up to `resumed_step` and drops the rest (a killed run wrote steps that are now done again).
  /// @throws IoError where the file cannot be read or written
  MetricsFile(const std::filesystem::path& file, int64_t resumed_step);
  /// @returns "" or why the record could not be written; it is kept, and written with the next one
  std::string append(const StepRecord& record);
  /// Writes what could not be written before. @returns as append
  std::string flush();
  /// The run went back to `step`: the records of later ones, which are now done again with other data, move to the end of
  /// metrics.rolled_back.jsonl beside the file, and only when they are safe there are they cut off here. @returns as append
  std::string roll_back(int64_t step);

 private:
  /// Takes the records of later steps off those in the file and those that wait. @returns them @throws IoError where the file cannot be read
  std::string take_after(int64_t step);
  /// Makes the file what good_bytes_ says, and opens it, once undone_ is written. @throws IoError
  void settle();

  std::filesystem::path path_;
  std::ofstream out_;
  bool is_settled_ = false;
  uint64_t good_bytes_ = 0;  ///< whole records at the file's beginning; what follows them is to go
  std::string pending_;      ///< records that could not be written
  std::string undone_;       ///< those that a rollback undid, and that are not in metrics.rolled_back.jsonl yet
};

}  // namespace pimoe
