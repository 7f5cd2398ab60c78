#pragma once

#include "parallel/device.h"

namespace pimoe {

/// What device.h says of the CPU, shared by device_cuda.cpp and device_nocuda.cpp.
void use_host();
std::string host_name_of_cpu();
MemoryUse host_memory_use();
void forget_host_peak_memory();
int64_t host_free_bytes();
bool host_has_fast_bfloat16();

}  // namespace pimoe
