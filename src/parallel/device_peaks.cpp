#include "parallel/device.h"

#include <utility>

namespace pimoe {
namespace {

/// Peak dense bfloat16 FLOP/s, from the makers' data sheets; the first entry whose words are in the device's name counts.
constexpr std::pair<const char*, double> kPeakFlops[] = {
    {"GB200", 2500e12}, {"B300", 2250e12},        {"B200", 2250e12},  {"H100 PCIe", 756e12}, {"H100 NVL", 835e12}, {"H100", 989.5e12},
    {"H200", 989.5e12}, {"GH200", 989.5e12},      {"H800", 989.5e12}, {"A100", 312e12},      {"A800", 312e12},     {"L40S", 362e12},
    {"L40", 181e12},    {"RTX 6000 Ada", 364e12}, {"A40", 149.7e12},  {"A10G", 70e12},       {"A10", 125e12},      {"A30", 165e12},
};

}  // namespace

double peak_flops_of(const std::string& name) {
  for (const auto& [words, flops] : kPeakFlops) {
    if (name.find(words) != std::string::npos) return flops;
  }
  return 0;
}

}  // namespace pimoe
