#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace pimoe {

/// How the values of one logical tensor differ between two checkpoints.
struct TensorDifference {
  std::string tensor;  ///< "master/layers.0.norm"
  int64_t elements = 0;
  int64_t different = 0;      ///< elements
  double max_absolute = 0.0;  ///< infinite where one is not finite and the other another value
  double max_relative = 0.0;  ///< |a - b| / max(|a|, |b|)
};

/// What differs between two checkpoints, whatever layouts wrote them.
struct CheckpointComparison {
  int64_t equal_tensors = 0;
  std::vector<std::string> only_in_first;
  std::vector<std::string> only_in_second;
  std::vector<std::string> shapes;  ///< "master/a: [2, 3] and [6]"
  std::vector<TensorDifference> values;
  std::vector<std::string> state;  ///< step, numbers and counters: "counters.next_sample: 1600 and 3200"
  bool config_differs = false;     ///< does not count: a run's folder and layout are part of it

  /// Whether tensors of a kind ("master": the weights) are the same: none differs, in values or shape, or is in one of the two alone.
  bool same_of(const std::string& kind) const;
  bool same_tensors() const { return only_in_first.empty() && only_in_second.empty() && shapes.empty() && values.empty(); }
  bool same() const { return same_tensors() && state.empty(); }
};

/// Compares every logical tensor, assembled in stretches. Number formats may differ; two NaN are equal, and so are 0 and -0.
/// @throws CheckpointError if one is missing or damaged
/// @cost reads both checkpoints once; a few tens of MB of memory
CheckpointComparison compare_checkpoints(const std::filesystem::path& first, const std::filesystem::path& second);

}  // namespace pimoe
