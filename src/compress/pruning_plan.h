#pragma once

/// How much smaller a model becomes, and which experts or channels stay.

#include "compress/expert_importance.h"
#include "compress/expert_recipe.h"
#include "train/train_config.h"

#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

enum class PruneKind : uint8_t {
  kExperts,   ///< whole experts go
  kChannels,  ///< each expert becomes narrower
  kMerge,     ///< experts that are alike become one
};

struct PruneChoice {
  PruneKind kind = PruneKind::kExperts;
  double ratio = 0.3;    ///< share that goes
  int64_t multiple = 0;  ///< that what stays is a multiple of; 0: auto, as usual_multiple
};

/// @returns the multiple of `multiple` below `count` that is nearest to (1 - ratio) count, of two the larger; 0: there is none
int64_t kept_count(int64_t count, double ratio, int64_t multiple);

/// What a width stays a multiple of: the largest power of two up to 64 that divides it and is at most a sixteenth of it (1 of narrow ones). Kernels load
/// 16 bytes at a time and compute tiles of 16 to 64 columns; beyond a sixteenth the ratio would be missed by more than a thirty-second.
int64_t usual_multiple(int64_t width);

/// Neighbours among a layer's experts of which equally many have to stay: a group of experts of one shape, or one of the router's groups.
struct ExpertCell {
  size_t group = 0;   ///< of expert_groups_of
  int64_t first = 0;  ///< number of its first expert in the layer
  int64_t count = 0;
  int64_t kept = 0;
};

/// The configuration of the smaller model. Counts and widths change, and what would no longer be true: mesh.expert_parallel where it does not divide what stays
/// (auto), model.initial_weights and model.upcycle (none: the weights are not those), model.moe.router.replay (none).
/// @throws ConfigError naming key, value and rule: a model without experts, or quantized; experts that are known by their number (hash, uniform); what would
///         leave fewer experts than choices; nothing that can go
TrainConfig smaller_config(TrainConfig config, const PruneChoice& choice);

/// @param before, after  a configuration, and smaller_config of it
std::vector<ExpertCell> cells_of(const MoeConfig& before, const MoeConfig& after);

/// One layer's recipe, and what it costs.
struct LayerPlan {
  LayerRecipe recipe;
  double lost =
      0.0;  ///< share of the importance that went: of experts that are gone or were merged into others, or of channels of the last hidden layers
};

/// The most important experts of each cell stay, in their order; of equals the lower number.
LayerPlan plan_experts(const LayerImportance& importance, const std::vector<ExpertCell>& cells);
/// The most important channels of each expert stay, in their order; of equals the lower number.
LayerPlan plan_channels(const LayerImportance& importance, const MoeConfig& before, const MoeConfig& after);

/// @returns where the `count` largest numbers are, in rising order; of equals the first  @param values  [N]
std::vector<int64_t> places_of_largest(const at::Tensor& values, int64_t count);

}  // namespace pimoe
