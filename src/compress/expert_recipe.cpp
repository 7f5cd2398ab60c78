#include "compress/expert_recipe.h"

#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

namespace pimoe {
namespace {

/// What remains of an expert's matrix.
at::Tensor cut(const at::Tensor& whole, const ExpertPart& part, const ExpertGroup& group, int64_t matrix) {
  if (part.channels.empty()) return whole;
  at::Tensor values = whole;
  if (matrix > 0) values = values.index_select(1, part.channels[static_cast<size_t>(matrix - 1)]);
  if (matrix == group.hidden_layers()) return values;
  const at::Tensor& rows = part.channels[static_cast<size_t>(matrix)];
  const bool has_gates = matrix == 0 && is_gated(group.shape.activation);
  return values.index_select(0, has_gates ? at::cat({rows, rows + whole.size(0) / 2}) : rows);
}

/// @param value_of  of a part
at::Tensor weighted(const std::vector<ExpertPart>& parts, const std::function<at::Tensor(const ExpertPart&)>& value_of) {
  if (parts.size() == 1) return value_of(parts[0]);
  at::Tensor sum;
  at::ScalarType dtype = at::kFloat;
  for (const ExpertPart& part : parts) {
    const at::Tensor value = value_of(part);
    dtype = value.scalar_type();
    const at::Tensor share = value.to(at::kDouble) * part.weight;
    sum = sum.defined() ? sum + share : share;
  }
  return sum.to(dtype);
}

}  // namespace

std::vector<std::string> ExpertGroup::matrices() const {
  std::vector<std::string> names = {concat(name, is_gated(shape.activation) ? ".gate_up.weight" : ".up.weight")};
  for (int64_t index = 0; index < shape.layers - 2; ++index) names.push_back(concat(name, ".middle.", index, ".weight"));
  names.push_back(name + ".down.weight");
  return names;
}

std::vector<ExpertGroup> expert_groups_of(const std::string& layer, const MoeConfig& moe) {
  std::vector<ExpertGroup> groups;
  int64_t first = 0;
  for (const ExpertGroupConfig& shape : moe.expert_groups()) {
    groups.push_back({.name = concat(layer, ".experts", shape.name.empty() ? "" : ".", shape.name), .shape = shape, .first = first});
    first += shape.count;
  }
  return groups;
}

std::vector<std::string> moe_layer_names(const std::vector<std::string>& routers) {
  std::vector<std::string> names;
  for (const std::string& router : routers) names.push_back(router.substr(0, router.rfind('.')));
  return names;
}

std::vector<int64_t> LayerRecipe::new_numbers(int64_t count) const {
  std::vector<int64_t> numbers(static_cast<size_t>(count), -1);
  for (size_t expert = 0; expert < experts.size(); ++expert) {
    for (const ExpertPart& part : experts[expert]) numbers.at(static_cast<size_t>(part.expert)) = static_cast<int64_t>(expert);
  }
  return numbers;
}

at::Tensor made_matrix(const std::vector<ExpertPart>& parts, const ExpertGroup& group, int64_t matrix,
                       const std::function<at::Tensor(int64_t expert)>& matrix_of) {
  return weighted(parts, [&](const ExpertPart& part) { return cut(matrix_of(part.expert), part, group, matrix); });
}

at::Tensor made_rows(const LayerRecipe& recipe, const at::Tensor& rows) {
  std::vector<at::Tensor> made;
  for (const std::vector<ExpertPart>& parts : recipe.experts) {
    made.push_back(weighted(parts, [&](const ExpertPart& part) { return rows.select(0, part.expert); }));
  }
  return at::stack(made);
}

}  // namespace pimoe
