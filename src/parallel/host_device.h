#pragma once

#include "parallel/device.h"

#include <cstdint>
#include <filesystem>
#include <istream>
#include <string>

namespace pimoe {

/// What device.h says of the CPU, shared by device_cuda.cpp and device_nocuda.cpp.
void use_host();
std::string host_name_of_cpu();
MemoryUse host_memory_use();
void forget_host_peak_memory();
/// What is available of the machine, or of what control groups let its processes have, where that is less.
int64_t host_free_bytes();
/// @returns what `ulimit -v` lets this process alone have beside what it has; the largest number where there is no limit
int64_t free_addresses();
/// @param membership  as /proc/self/cgroup: version 1 and 2  @param root  /sys/fs/cgroup
/// @returns the least that this process' groups, and those above them, have left; the largest number where nothing is limited
int64_t free_in_control_groups(std::istream& membership, const std::filesystem::path& root);
bool host_has_fast_bfloat16();

}  // namespace pimoe
