/// A document of `pimoe bench ceilings --json`, as `pimoe check --ceilings` reads it: with no rates beside it, and with a device's.

#include "fuzz/fuzz_target.h"

#include "base/errors.h"
#include "preflight/device_rates.h"

#include <cmath>

namespace {

/// Work is divided by every rate.
void require_usable(const pimoe::DeviceRates& rates) {
  for (const double rate :
       {rates.product, rates.grouped_product, rates.head, rates.wide_product, rates.attention, rates.copy, rates.link, rates.network}) {
    pimoe::require(std::isfinite(rate) && rate > 0, "a rate that was read is a positive number");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  using namespace pimoe;
  static const ScratchFolder folder;
  folder.put("ceilings.json", bytes, count);
  for (const char* precision : {"bfloat16", "float32"}) {
    for (const std::optional<DeviceRates>& otherwise : {std::optional<DeviceRates>(), shipped_rates("h200", "bfloat16")}) {
      try {
        require_usable(read_rates(folder.path() / "ceilings.json", precision, otherwise));
      } catch (const DataError&) {
      }
    }
  }
  return 0;
}
