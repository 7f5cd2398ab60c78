#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// A device that a run may be planned for.
struct DeviceSpec {
  const char* name;   ///< on the command line: "h100"
  const char* words;  ///< in the driver's name of such a device: "H100"
  double memory_gib;  ///< as the driver counts it; 0 where it is not known
  bool is_gpu = true;
  bool fast_bfloat16 = true;  ///< what train.precision auto takes
  bool is_hopper = false;     ///< compute capability 9: routed_swiglu_mlp has kernels
};

/// All of them; `cpu` is the first. Several names may have the same words: the first is the usual build.
const std::vector<DeviceSpec>& device_specs();

/// @returns the device of that name; nothing if there is none
std::optional<DeviceSpec> find_device(const std::string& name);

/// @returns this machine's first GPU if the table has it, else `cpu`
DeviceSpec device_here();

}  // namespace pimoe
