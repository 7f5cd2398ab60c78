#pragma once

#include <filesystem>
#include <string>

namespace pimoe {

/// @returns a name that is free, for a file that is put aside. @param ending  ".damaged" gives FILE.damaged, or FILE.damaged-2, ...
std::filesystem::path free_name(const std::filesystem::path& file, const std::string& ending);

/// Before a run goes on with `file` (metrics.jsonl): where a kill or a disk has left lines in it that are no record of a step, the file is kept as
/// FILE.damaged (.damaged-2, ... if taken), and the lines that can be read stay. A file that cannot be read at all is moved there.
/// @returns "", or what was found and done, for a warning. Throws nothing: a record of a run is no reason to end it.
std::string mend_metrics(const std::filesystem::path& file);

/// Before a run begins from scratch where one was before, and wrote `file`, but left no checkpoint: keeps it as FILE.earlier (.earlier-2, ...).
/// @returns as mend_metrics
std::string set_metrics_aside(const std::filesystem::path& file);

}  // namespace pimoe
