#pragma once

/// Experts that are alike become one: which ones, and how their channels are laid over each other.

#include "compress/expert_recipe.h"
#include "compress/pruning_plan.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace pimoe {

/// @returns [n, n] float64: of experts i and j the sum over tokens of output_i . output_j
/// @param outputs  [n, N, D] floating
at::Tensor output_products(const at::Tensor& outputs);

/// Begins with each expert by itself and merges the two groups whose mean outputs are cheapest to put in place of theirs, until `kept` are left:
///
///     cost(a, b) = n_a n_b / (n_a + n_b) |c_a - c_b|^2      n: load of a group, c: mean of its experts' outputs by their load
///
/// which is what the sum over experts of load * |output - mean of its group|^2 rises by (Ward, J. Am. Stat. Assoc. 58, 1963; experts grouped by their outputs:
/// arXiv 2410.08589). An expert without load costs nothing, and weighs nothing. Of equal costs the lower numbers are taken.
/// @param products  of output_products  @param loads  [n]
/// @returns groups of places below n in rising order, by their first
std::vector<std::vector<int64_t>> groups_to_merge(const at::Tensor& products, const at::Tensor& loads, int64_t kept);

/// An expert is the same in any order of its channels. Each channel of `reference`, the largest first, takes the nearest of `other` that is left.
/// @param reference, other  [F, N]: of each channel all its numbers, of gate, up and down
/// @returns [F] int64: the channel of `other` for each of `reference`'s
at::Tensor aligned_channels(const at::Tensor& reference, const at::Tensor& other);

/// Gives a matrix of an expert, by the parameter's name and the expert's number in its layer.
using ExpertReader = std::function<at::Tensor(const std::string& matrix, int64_t expert)>;

/// Merged are weights: the mean by load, channels laid over those of the group's expert with the largest load; router rows and biases likewise.
/// @param layer   "layers.3.moe"  @param tokens  [N, D] some of the layer's inputs
/// @cost reads every expert, those that are merged twice; memory of all experts' outputs for the tokens
LayerPlan plan_merging(const std::string& layer, const MoeConfig& before, const std::vector<ExpertCell>& cells,
                       const LayerImportance& importance, const at::Tensor& tokens, const ExpertReader& read);

}  // namespace pimoe
