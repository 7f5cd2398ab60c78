#include "preflight/device_table.h"

#include "parallel/device.h"

namespace pimoe {

const std::vector<DeviceSpec>& device_specs() {
  static const std::vector<DeviceSpec> specs = {
      {"cpu", "", 0.0, false, has_fast_bfloat16(c10::DeviceType::CPU)},
      {"h100", "H100", 79.1, true, true, true},
      {"h100-nvl", "H100 NVL", 93.0, true, true, true},
      {"h200", "H200", 139.8, true, true, true},
      {"b200", "B200", 178.3},
      {"gh200", "GH200", 94.5, true, true, true},
      {"a100", "A100", 79.1},
      {"a100-40gb", "A100-SXM4-40GB", 39.4},
      {"l40s", "L40S", 44.4},
      {"a10g", "A10G", 22.0},
      {"l4", "L4", 22.0},
      {"v100", "V100", 31.7, true, false},
  };
  return specs;
}

std::optional<DeviceSpec> find_device(const std::string& name) {
  for (const DeviceSpec& spec : device_specs()) {
    if (name == spec.name) return spec;
  }
  return std::nullopt;
}

DeviceSpec device_here() {
  const DeviceSpec& cpu = device_specs().front();
  if (gpu_count() == 0) return cpu;
  const std::string name = device_name(c10::Device(c10::DeviceType::CUDA, 0));
  const DeviceSpec* found = nullptr;
  for (const DeviceSpec& spec : device_specs()) {
    const std::string words = spec.words;
    // "GH200" has "H200" in it: the longest words count.
    if (words.empty() || name.find(words) == std::string::npos) continue;
    if (found == nullptr || words.size() > std::string(found->words).size()) found = &spec;
  }
  return found ? *found : DeviceSpec{"gpu", "", 0.0};
}

}  // namespace pimoe
