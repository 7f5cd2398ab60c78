#pragma once

#include "bench/bench.h"
#include "bench/gpu_timeline.h"

#include <nlohmann/json.hpp>

#include <string>

namespace pimoe {

/// @returns three digits and the unit's prefix: si_text(8.9e11, "FLOP/s") is "890 GFLOP/s"
std::string si_text(double value, const std::string& unit);
/// @returns "12.3 MB" of a size
std::string bytes_text(int64_t bytes);
/// @returns "forward 8.11 ms, backward 13.0 ms"
std::string parts_text(const std::vector<TimedPart>& parts);

/// What ran, where: constant over the run.
struct BenchFacts {
  std::string version;  ///< of PiMoE
  std::string commit;   ///< that was built; "unknown" outside of a clone
  std::string command;
  nlohmann::ordered_json machine;  ///< see machine.h
  std::string config;              ///< resolved, YAML
};

nlohmann::ordered_json to_json(const BenchFacts& facts, const std::vector<BenchRow>& rows);
/// A table for a person, 100 columns wide.
std::string to_text(const BenchFacts& facts, const std::vector<BenchRow>& rows);

/// Puts a measured time into a document: median_seconds, low_seconds, high_seconds, repetitions. @param prefix  of the names: "restore_"
void put_seconds(nlohmann::ordered_json& values, const Spread& seconds, const std::string& prefix = "");

/// @returns for a document the twenty names that took longest: [{"name", "seconds", "count"}]
nlohmann::ordered_json longest_kernels(const GpuTimeline& gpu);

}  // namespace pimoe
