#pragma once

#include <filesystem>
#include <string>

namespace pimoe {

/// Whose a folder is. A run's checkpoints are one sequence: `checkpoint.resume: auto` goes on from the newest in its folder, whoever wrote it there.

/// @returns the run.directory that a checkpoint was saved in, as its configuration has it; "" where that cannot be read.
std::string run_of(const std::filesystem::path& checkpoint);

/// Refuses to write a checkpoint where another run's are, or anywhere inside another run's folder.
/// @param output  as the user named it, for the message
/// @param place   the folder that will hold the checkpoint or the run; need not be there
/// @param run     run_of what is to be written; "": of none yet
/// @throws UsageError naming the run that owns the folder
void require_no_other_run(const std::filesystem::path& output, const std::filesystem::path& place, const std::string& run);

}  // namespace pimoe
