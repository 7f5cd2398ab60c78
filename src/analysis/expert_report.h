#pragma once

#include "analysis/class_table.h"
#include "data/token_classes.h"
#include "moe/moe_config.h"

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

namespace pimoe {

/// What one MoE layer's experts received.
struct ExpertLayer {
  int64_t layer = 0;  ///< among all blocks
  ClassTable experts;
  ChanceLevel chance;
  ClassTable groups;         ///< one group: the whole layer
  ChanceLevel group_chance;  ///< of `groups`, where there are several
};

/// What `pimoe experts` measured.
struct ExpertReport {
  std::string checkpoint;
  std::string data;
  TextKind kind = TextKind::kPython;
  std::vector<ExpertGroupConfig> groups;
  int64_t tokens = 0;     ///< that the model read
  int64_t classed = 0;    ///< of these, tokens with a class
  int64_t documents = 0;  ///< that they come from, the last one perhaps in part
  double loss = 0.0;      ///< nats a token
  int64_t rounds = 0;     ///< of each kind of chance
  std::vector<ExpertLayer> layers;
};

/// A layer's table under this many slots expected by the base rate is shown, and not coloured.
constexpr double kThinSlots = 20.0;

/// @returns tables for a terminal: each layer's shares, then the mutual information of all layers, then what the numbers mean.
std::string to_text(const ExpertReport& report);
/// @returns the same numbers for a program.
nlohmann::ordered_json to_json(const ExpertReport& report);
/// @returns each layer's lifts as a heat map, an SVG document.
std::string to_heat_map(const ExpertReport& report);

}  // namespace pimoe
