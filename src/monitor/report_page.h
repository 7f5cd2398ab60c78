#pragma once

#include "monitor/run_record.h"

#include <string>
#include <vector>

namespace pimoe {

/// @returns one HTML document that needs nothing else, neither network nor files: the runs' numbers as JSON, and the script that draws them
///          (page/report.js, with Chart.js of third_party/). What comes from files is data there, and never markup.
/// @param time  now, seconds since 1970
std::string to_page(const std::vector<RunRecord>& runs, double time);

/// The page's parts, built in (cmake/EmbedFiles.cmake).
struct PageParts {
  const char* html;
  const char* style;
  const char* script;
  const char* charts;
};
PageParts page_parts();

}  // namespace pimoe
