#pragma once

#include <cstdint>
#include <vector>

namespace pimoe {

/// The MoE layers of a model, as its parameters number its layers: the first stands behind the dense ones.
struct MoeLayers {
  int64_t count = 0;
  int64_t experts = 0;  ///< of each
  int64_t first = 0;    ///< the model's layer that is the first with experts
  int64_t choices = 1;  ///< K
};

/// (max - mean) / mean; 0 where all are 0.
double maxvio(const std::vector<int64_t>& counts);
double maxvio(const std::vector<double>& counts);

/// H(c) / ln E; 1 at balance, and where there is one expert alone.
double load_entropy(const std::vector<int64_t>& load);

/// Where a load entropy H / ln E lies between its least, ln K / ln E (all tokens on the same K experts), and balance: 0 to 1.
/// (H - ln K) / (ln E - ln K); 1 where K is E, and nothing can be out of balance.
double entropy_above_least(double load_entropy, int64_t experts, int64_t choices);

/// @returns how many experts have no slot
int64_t idle_experts(const std::vector<int64_t>& load);

}  // namespace pimoe
