#pragma once

#include <cstdint>
#include <vector>

namespace pimoe {

/// The MoE layers of a model, as its parameters number its layers: the first stands behind the dense ones.
struct MoeLayers {
  int64_t count = 0;
  int64_t experts = 0;  ///< of each
  int64_t first = 0;    ///< the model's layer that is the first with experts
};

/// (max - mean) / mean; 0 where all are 0.
double maxvio(const std::vector<int64_t>& counts);
double maxvio(const std::vector<double>& counts);

/// H(c) / ln E; 1 at balance, and where there is one expert alone.
double load_entropy(const std::vector<int64_t>& load);

/// @returns how many experts have no slot
int64_t idle_experts(const std::vector<int64_t>& load);

}  // namespace pimoe
