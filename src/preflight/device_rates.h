#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace pimoe {

/// What a device and its links reach on large work: what the time of a step is foretold with. Of one rank, all ranks at work.
struct DeviceRates {
  double product = 0.0;          ///< FLOP/s of dense products in the compute dtype
  double grouped_product = 0.0;  ///< FLOP/s of experts' products, forward and backward, with what lies between them
  double head = 0.0;             ///< FLOP/s of the head with its cross-entropy, forward and backward
  double wide_product = 0.0;     ///< FLOP/s of products in float32: the router's
  double attention = 0.0;        ///< FLOP/s of causal attention, forward and backward, masked half not counted
  double copy = 0.0;             ///< bytes/s read and written
  double link = 0.0;             ///< bytes/s that a rank sends to ranks of its node, while it receives as many
  double network = 0.0;          ///< the same to other nodes, while all ranks of its node send as much
  double operation = 0.0;        ///< seconds that the host needs to start one of libtorch's operations
  double message = 0.0;          ///< seconds of a collective, whatever its size
  double peak = 0.0;             ///< FLOP/s of dense products in bfloat16 that the maker states: what MFU is over; 0 where unknown
  std::string source;            ///< where they come from, for the reader
};

/// @returns those of a device by its name in device_table.h, in 16-bit precisions; nothing where none are shipped (CPUs differ too much)
std::optional<DeviceRates> shipped_rates(const std::string& device, const std::string& precision);

/// Those of a document of `pimoe bench ceilings --json`; what it does not have (one rank measures no links) is taken from `otherwise`.
/// @param precision  of the run, which has to be the document's
/// @throws IoError, DataError  naming what is missing or no number
DeviceRates read_rates(const std::filesystem::path& file, const std::string& precision, const std::optional<DeviceRates>& otherwise);

}  // namespace pimoe
