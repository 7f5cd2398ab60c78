#include "preflight/device_rates.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "parallel/device.h"
#include "preflight/device_table.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace pimoe {
namespace {

constexpr const char* kMeasured = "measured on this kind of device";
constexpr const char* kNearlyMeasured = "measured on H200, memory from the maker's figures";
constexpr const char* kDataSheet = "estimated from the maker's figures; not measured";

/// Starting an operation of libtorch from C++, and a collective, as long as nothing was measured.
constexpr double kOperation = 9e-6;
constexpr double kMessage = 30e-6;

/// FLOP/s, and bytes/s, as in DeviceRates.
struct ShippedRates {
  const char* device;
  double product, grouped_product, head, wide_product, attention;
  double copy, link, network;
  const char* source;
};

const std::array<ShippedRates, 8>& table() {
  // device, product, grouped, head, wide, attention, copy, link, network, source
  static const std::array<ShippedRates, 8> shipped = {{
      {"h200", 720e12, 600e12, 560e12, 45e12, 450e12, 3.8e12, 300e9, 45e9, kMeasured},
      {"h100", 700e12, 580e12, 540e12, 45e12, 430e12, 2.7e12, 300e9, 45e9, kNearlyMeasured},
      {"gh200", 700e12, 580e12, 540e12, 45e12, 430e12, 3.2e12, 300e9, 45e9, kNearlyMeasured},
      {"h100-nvl", 580e12, 450e12, 450e12, 40e12, 360e12, 3.1e12, 180e9, 45e9, kDataSheet},
      {"b200", 1650e12, 1200e12, 1200e12, 55e12, 1000e12, 6.4e12, 650e9, 45e9, kDataSheet},
      {"a100", 235e12, 180e12, 180e12, 14e12, 140e12, 1.55e12, 220e9, 22e9, kDataSheet},
      {"a100-40gb", 235e12, 180e12, 180e12, 14e12, 140e12, 1.2e12, 220e9, 22e9, kDataSheet},
      {"l40s", 270e12, 180e12, 180e12, 60e12, 150e12, 0.7e12, 20e9, 20e9, kDataSheet},
  }};
  return shipped;
}

/// Median rates, as a step's time is to be a median's too; of several rows whose names begin so (sizes, start and end) the largest.
class Ceilings {
 public:
  Ceilings(const nlohmann::json& document, const std::filesystem::path& file) : document_(document), file_(file) {}

  std::optional<double> largest(const std::string& name, const char* key, double unit) const {
    std::optional<double> found;
    for (const nlohmann::json& row : document_.at("rows")) {
      if (row.value("suite", "") != "ceilings" || !row.value("name", "").starts_with(name) || !row.contains(key)) continue;
      if (!row[key].is_number()) throw DataError(concat(file_.string(), ": ", key, " of ", name, " is no number"));
      const double rate = row[key].get<double>() * unit;
      if (!std::isfinite(rate)) throw DataError(concat(file_.string(), ": ", key, " of ", name, " is no rate"));
      if (rate > 0 && (!found || rate > *found)) found = rate;
    }
    return found;
  }
  std::optional<double> flops(const std::string& name) const { return largest(name, "tflops", 1e12); }
  std::optional<double> bytes(const std::string& name) const { return largest(name, "gigabytes_per_second", 1e9); }

 private:
  const nlohmann::json& document_;
  const std::filesystem::path& file_;
};

}  // namespace

std::optional<DeviceRates> shipped_rates(const std::string& device, const std::string& precision) {
  if (precision != "bfloat16" && precision != "float16") return std::nullopt;
  for (const ShippedRates& shipped : table()) {
    if (device != shipped.device) continue;
    DeviceRates rates;
    rates.product = shipped.product;
    rates.grouped_product = shipped.grouped_product;
    rates.head = shipped.head;
    rates.wide_product = shipped.wide_product;
    rates.attention = shipped.attention;
    rates.copy = shipped.copy;
    rates.link = shipped.link;
    rates.network = shipped.network;
    rates.operation = kOperation;
    rates.message = kMessage;
    rates.peak = peak_flops_of(find_device(device).value().words);
    rates.source = shipped.source;
    return rates;
  }
  return std::nullopt;
}

DeviceRates read_rates(const std::filesystem::path& file, const std::string& precision, const std::optional<DeviceRates>& otherwise) {
  const std::string name = file.string();
  try {
    const nlohmann::json document = nlohmann::json::parse(read_regular_file(file));
    const Ceilings ceilings(document, file);
    const nlohmann::json& machine = document.at("machine");
    const auto measured_in = machine.at("precision").get<std::string>();
    if (measured_in != precision)
      throw DataError(concat(name, " was measured in ", measured_in, ", and the run is in ", precision, ": make it anew"));
    DeviceRates rates = otherwise.value_or(DeviceRates{});
    const auto need = [&](double& rate, std::optional<double> measured, const std::string& row) {
      if (measured) rate = *measured;
      if (rate <= 0) throw DataError(concat(name, " has no row of ceilings named ", row, ": make it anew with `pimoe bench ceilings`"));
    };
    need(rates.product, ceilings.flops("projections"), "projections");
    need(rates.wide_product, ceilings.flops(precision == "float64" ? "gemm float64" : "gemm float32"), "gemm float32");
    // A model without experts measures none, and needs none.
    need(rates.grouped_product, ceilings.flops("experts").value_or(rates.product), "experts");
    need(rates.head, ceilings.flops("head"), "head");
    need(rates.attention, ceilings.flops("attention"), "attention");
    need(rates.copy, ceilings.bytes("copy"), "copy");
    if (const auto exchange = ceilings.bytes("all_to_all")) {
      // Of the expert group: inside a node, unless there is a rank or less on each.
      const bool near = machine.at("hosts").get<int64_t>() < machine.at("ranks").get<int64_t>() || machine.at("hosts").get<int64_t>() == 1;
      (near ? rates.link : rates.network) = *exchange;
    }
    if (rates.link <= 0) rates.link = rates.copy / 4;  // between processes of a host: each byte is written and read twice
    if (rates.network <= 0) rates.network = rates.link;
    if (!otherwise) {
      rates.operation = kOperation;
      rates.message = kMessage;
    }
    rates.source = concat("measured: ", name);
    return rates;
  } catch (const nlohmann::json::exception&) {
    throw DataError(concat(name, " is no JSON document of `pimoe bench ceilings --json`"));
  }
}

}  // namespace pimoe
