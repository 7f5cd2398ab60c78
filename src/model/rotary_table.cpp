#include "model/rotary_table.h"

#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pimoe {
namespace {

/// Where yarn's ramp begins and ends, as a frequency's number.
struct Ramp {
  /// @returns the number of the frequency that turns so often in the original length
  static double number_of(double turns, double length, double theta, double width) {
    return width * std::log(length / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
  }

  Ramp(const RotaryConfig& rotary, double length, double theta, double width)
      : begin(number_of(rotary.beta_fast, length, theta, width)), end(number_of(rotary.beta_slow, length, theta, width)) {
    if (rotary.truncate) {
      begin = std::floor(begin);
      end = std::ceil(end);
    }
    begin = std::max(begin, 0.0);
    end = std::min(end, width - 1);
    if (begin == end) end += 0.001;
  }

  double begin, end;
};

}  // namespace

double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

double rotary_attention_factor(const RotaryConfig& rotary) {
  if (rotary.scaling != RotaryScaling::kYarn) return 1.0;
  if (rotary.attention_factor > 0) return rotary.attention_factor;
  if (rotary.mscale == 0 || rotary.mscale_all_dim == 0) return yarn_mscale(rotary.factor, 1.0);
  return yarn_mscale(rotary.factor, rotary.mscale) / yarn_mscale(rotary.factor, rotary.mscale_all_dim);
}

std::vector<double> rotary_frequencies(const RotaryConfig& rotary, double theta, int64_t width, int64_t sequence_length) {
  const auto length = static_cast<double>(rotary.original(sequence_length));
  std::vector<double> frequencies(static_cast<size_t>(width / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
  }
  // How much of a frequency stays as it is; the rest of it is divided.
  const auto stretch = [&](const auto& stays) {
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double share = std::clamp<double>(stays(static_cast<double>(i), frequencies[i]), 0.0, 1.0);
      frequencies[i] *= (1 - share) / rotary.factor + share;
    }
  };
  switch (rotary.scaling) {
    case RotaryScaling::kNone:
    case RotaryScaling::kDynamic: break;
    case RotaryScaling::kLinear: stretch([](double, double) { return 0.0; }); break;
    case RotaryScaling::kYarn: {
      const Ramp ramp(rotary, length, theta, static_cast<double>(width));
      stretch([&](double i, double) { return 1 - std::clamp((i - ramp.begin) / (ramp.end - ramp.begin), 0.0, 1.0); });
      break;
    }
    case RotaryScaling::kLlama3: {
      const double low = rotary.low_frequency_factor, high = rotary.high_frequency_factor;
      stretch([&](double, double frequency) {
        const double turns = length * frequency / (2 * std::numbers::pi);  // in the original length
        return (turns - low) / (high - low);
      });
      break;
    }
  }
  return frequencies;
}

RotaryTable::RotaryTable(const ModelConfig& config, at::ScalarType compute_dtype, c10::Device device) {
  // In float64 whatever the run's precision: float32 angles of late positions are off by their last bits.
  const auto options = at::TensorOptions().dtype(at::kDouble).device(device.is_meta() ? device : c10::Device(c10::DeviceType::CPU));
  const std::vector<double> frequencies =
      rotary_frequencies(config.rotary, config.rope_theta, config.rotary_width(), config.sequence_length);
  const at::Tensor angles =
      at::outer(at::arange(config.sequence_length, options), at::tensor(frequencies, at::kDouble).to(options.device()));
  const double factor = rotary_attention_factor(config.rotary);
  const auto scaled = [&](const at::Tensor& values) { return factor == 1.0 ? values : values * factor; };
  cosine = scaled(angles.cos()).to(device, at_least_float32(compute_dtype));
  sine = scaled(angles.sin()).to(device, at_least_float32(compute_dtype));
}

TokenPlaces::TokenPlaces(const RotaryTable& table, int64_t positions, const std::optional<PackedDocuments>& packed) : documents(packed) {
  const auto of_tokens = [&](const at::Tensor& angles) {
    return packed ? angles.index_select(0, packed->positions) : angles.slice(0, 0, positions);
  };
  cosine = of_tokens(table.cosine);
  sine = of_tokens(table.sine);
}

}  // namespace pimoe
