#pragma once

#include "monitor/run_record.h"

#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// A title, and what it says.
using SummaryLines = std::vector<std::pair<std::string, std::string>>;

/// @returns what a person wants to know of a run first: how far it came, losses, model, layout, time, what went wrong. What is unknown is left out.
SummaryLines run_summary(const RunRecord& run);

}  // namespace pimoe
