#pragma once

#include <filesystem>
#include <string>

namespace pimoe {

/// Installs the handler of the signal by which a process' threads are asked for their stacks (SIGRTMIN + 6), and loads what unwinding needs: the
/// handler itself allocates nothing.
void prepare_stack_dump();

/// Writes the stacks of all threads but the calling one into `file`, below `heading`. A thread that does not answer within 0.3 s (it blocks the
/// signal, or waits in the kernel for a disk that does not come) is named with what the kernel says of it.
/// Frames of functions without a name of their own are FILE(+OFFSET), for `addr2line -Cfie FILE OFFSET`.
/// @returns false if the file cannot be written; nothing is thrown
/// REQUIRES prepare_stack_dump() before. One caller at a time.
bool write_stacks(const std::filesystem::path& file, const std::string& heading);

}  // namespace pimoe
