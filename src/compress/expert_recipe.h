#pragma once

/// Experts made of other experts: fewer of them, narrower ones, or one out of several that are alike.

#include "moe/moe_config.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

namespace pimoe {

/// The experts of one shape of one layer. Hidden layer h is what matrix h gives and matrix h + 1 takes; its F numbers are an expert's channels:
///
///     matrix 0                gate_up [2F, D] or up [F, D]   rows are channels of hidden layer 0
///     matrix m                middle.(m - 1) [F, F]          columns are channels of hidden layer m - 1, rows those of m
///     the last, layers - 1    down [D, F]                    columns are channels of the last hidden layer
struct ExpertGroup {
  std::string name;  ///< "layers.3.moe.experts", with the group's name behind where it has one
  ExpertGroupConfig shape;
  int64_t first = 0;  ///< number of its first expert in the layer

  int64_t hidden_layers() const { return shape.layers - 1; }
  /// Of parameters, in the order that a row passes them.
  std::vector<std::string> matrices() const;
};

/// @param layer  "layers.3.moe"
std::vector<ExpertGroup> expert_groups_of(const std::string& layer, const MoeConfig& moe);

/// @returns "layers.3.moe" of each MoE layer, in order  @param routers  ModelConfig::router_names
std::vector<std::string> moe_layer_names(const std::vector<std::string>& routers);

/// One expert's part in another.
struct ExpertPart {
  int64_t expert = 0;  ///< number in the layer as it was
  double weight = 1.0;
  /// Of each hidden layer [F'] int64: which of the expert's channels becomes each; empty: all stay where they are.
  std::vector<at::Tensor> channels = {};
};

/// What becomes of a layer's experts.
struct LayerRecipe {
  std::vector<std::vector<ExpertPart>> experts;  ///< of each expert to be, in order; the weights of its parts add up to 1

  /// @returns of each of `count` experts the number of the one that it becomes or is a part of; -1: it is gone
  std::vector<int64_t> new_numbers(int64_t count) const;
};

/// @param matrix     of the group's
/// @param matrix_of  gives an expert's, by its number in the layer
/// @returns the matrix of an expert that is made of `parts`, of the dtype that it is read in; of one whole part the same bits
at::Tensor made_matrix(const std::vector<ExpertPart>& parts, const ExpertGroup& group, int64_t matrix,
                       const std::function<at::Tensor(int64_t expert)>& matrix_of);

/// Rows of a router, its biases: experts that are made of several have their weighted mean.
/// @param rows  [E, ...]  @returns [E', ...], of the same dtype
at::Tensor made_rows(const LayerRecipe& recipe, const at::Tensor& rows);

}  // namespace pimoe
