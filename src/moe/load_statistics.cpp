#include "moe/load_statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pimoe {

double maxvio(const std::vector<double>& counts) {
  const double mean = std::accumulate(counts.begin(), counts.end(), 0.0) / static_cast<double>(counts.size());
  return mean > 0 ? (*std::max_element(counts.begin(), counts.end()) - mean) / mean : 0.0;
}

double maxvio(const std::vector<int64_t>& counts) { return maxvio(std::vector<double>(counts.begin(), counts.end())); }

double load_entropy(const std::vector<int64_t>& load) {
  if (load.size() < 2) return 1.0;
  const auto total = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
  double entropy = 0.0;
  for (const int64_t count : load) {
    if (count > 0) entropy -= static_cast<double>(count) / total * std::log(static_cast<double>(count) / total);
  }
  return entropy / std::log(static_cast<double>(load.size()));
}

double entropy_above_least(double load_entropy, int64_t experts, int64_t choices) {
  if (choices >= experts) return 1.0;
  const double least = std::log(static_cast<double>(choices)) / std::log(static_cast<double>(experts));
  return std::max(0.0, (load_entropy - least) / (1.0 - least));
}

int64_t idle_experts(const std::vector<int64_t>& load) { return std::count(load.begin(), load.end(), 0); }

}  // namespace pimoe
