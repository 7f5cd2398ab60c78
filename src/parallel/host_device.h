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
/// What is available of the machine, or of what a control group or `ulimit -v` lets this process have, where that is less.
int64_t host_free_bytes();
/// @param membership  as /proc/self/cgroup: version 1 and 2  @param root  /sys/fs/cgroup
/// @returns the least that this process' groups, and those above them, have left; the largest number where nothing is limited
int64_t free_in_control_groups(std::istream& membership, const std::filesystem::path& root);
bool host_has_fast_bfloat16();

}  // namespace pimoe
