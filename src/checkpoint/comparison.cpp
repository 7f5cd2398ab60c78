#include "checkpoint/comparison.h"

#include "base/text.h"
#include "checkpoint/checkpoint_reader.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace pimoe {
namespace {

constexpr int64_t kStretchElements = int64_t{1} << 20;

/// Adds what differs between two stretches of a tensor. Whole numbers are compared as such: not all of them are doubles.
template <class Number>
void add_differences(const at::Tensor& first, const at::Tensor& second, TensorDifference& difference) {
  const Number* const a = first.const_data_ptr<Number>();
  const Number* const b = second.const_data_ptr<Number>();
  for (int64_t i = 0; i < first.numel(); ++i) {
    const auto x = static_cast<double>(a[i]);
    const auto y = static_cast<double>(b[i]);
    if (a[i] == b[i] || (std::isnan(x) && std::isnan(y))) continue;
    const bool finite = std::isfinite(x) && std::isfinite(y);
    const double absolute = finite ? std::abs(x - y) : std::numeric_limits<double>::infinity();
    const double scale = std::max(std::abs(x), std::abs(y));
    ++difference.different;
    difference.max_absolute = std::max(difference.max_absolute, absolute);
    difference.max_relative = std::max(difference.max_relative, finite ? absolute / scale : absolute);
  }
}

TensorDifference compare_values(CheckpointReader& first, CheckpointReader& second, const std::string& tensor, int64_t elements) {
  TensorDifference difference{.tensor = tensor, .elements = elements};
  for (int64_t begin = 0; begin < elements; begin += kStretchElements) {
    const int64_t end = std::min(elements, begin + kStretchElements);
    const at::Tensor a = first.read(tensor, begin, end);
    const at::Tensor b = second.read(tensor, begin, end);
    if (at::isIntegralType(a.scalar_type(), false) && at::isIntegralType(b.scalar_type(), false)) {
      add_differences<int64_t>(a.to(at::kLong), b.to(at::kLong), difference);
    } else {
      add_differences<double>(a.to(at::kDouble), b.to(at::kDouble), difference);
    }
  }
  return difference;
}

bool same_value(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }
bool same_value(int64_t a, int64_t b) { return a == b; }

std::string value_text(double value) { return concat(value, std::floor(value) == value ? "" : concat(" (", scientific(value, 17), ")")); }
std::string value_text(int64_t value) { return std::to_string(value); }

template <class Value>
void compare_maps(const char* what, const std::map<std::string, Value>& first, const std::map<std::string, Value>& second,
                  std::vector<std::string>& lines) {
  for (const auto& [key, value] : first) {
    const auto other = second.find(key);
    if (other == second.end()) {
      lines.push_back(concat(what, ".", key, ": only in the first"));
    } else if (!same_value(value, other->second)) {
      lines.push_back(concat(what, ".", key, ": ", value_text(value), " and ", value_text(other->second)));
    }
  }
  for (const auto& [key, value] : second) {
    if (!first.contains(key)) lines.push_back(concat(what, ".", key, ": only in the second"));
  }
}

}  // namespace

bool CheckpointComparison::same_of(const std::string& kind) const {
  const auto is_of_kind = [begin = kind + "/"](const std::string& line) { return line.starts_with(begin); };
  return std::none_of(only_in_first.begin(), only_in_first.end(), is_of_kind) &&
         std::none_of(only_in_second.begin(), only_in_second.end(), is_of_kind) && std::none_of(shapes.begin(), shapes.end(), is_of_kind) &&
         std::none_of(values.begin(), values.end(), [&](const TensorDifference& difference) { return is_of_kind(difference.tensor); });
}

CheckpointComparison compare_checkpoints(const std::filesystem::path& first_path, const std::filesystem::path& second_path) {
  CheckpointReader first(first_path);
  CheckpointReader second(second_path);
  const Manifest& a = first.manifest();
  const Manifest& b = second.manifest();
  CheckpointComparison result;
  result.config_differs = a.config != b.config;
  if (a.step != b.step) result.state.push_back(concat("step: ", a.step, " and ", b.step));
  compare_maps("numbers", a.numbers, b.numbers, result.state);
  compare_maps("counters", a.counters, b.counters, result.state);

  const auto others = second.tensors();
  const auto tensors = first.tensors();
  for (const auto& [name, tensor] : tensors) {
    const auto other = others.find(name);
    if (other == others.end()) {
      result.only_in_first.push_back(name);
    } else if (tensor.shape != other->second.shape) {
      result.shapes.push_back(concat(name, ": ", shape_text(tensor.shape), " and ", shape_text(other->second.shape)));
    } else {
      TensorDifference difference = compare_values(first, second, name, Box::whole(tensor.shape).numel());
      if (difference.different > 0) {
        result.values.push_back(std::move(difference));
      } else {
        ++result.equal_tensors;
      }
    }
  }
  for (const auto& [name, tensor] : others) {
    if (!tensors.contains(name)) result.only_in_second.push_back(name);
  }
  return result;
}

}  // namespace pimoe
