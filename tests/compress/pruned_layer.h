#pragma once

/// A layer that a recipe makes of another, out of whole tensors in memory as `prune` makes it out of a checkpoint.

#include "compress/expert_recipe.h"
#include "moe/layer_fixture.h"

#include <ATen/ATen.h>

namespace pimoe {

/// Fills `small` with what the recipe makes of `large`.
inline void make_of(LayerFixture& small, const LayerFixture& large, const LayerRecipe& recipe) {
  const at::NoGradGuard no_gradients;
  const std::vector<ExpertGroup> was = expert_groups_of("moe", large.config);
  const std::vector<ExpertGroup> is = expert_groups_of("moe", small.config);
  const auto fill = [&](const std::string& name, const at::Tensor& whole) {
    Parameter& parameter = small.parameters.at(name);
    parameter.value.copy_(whole.narrow(0, parameter.box.offset[0], parameter.box.shape[0]));
  };
  for (size_t group = 0; group < is.size(); ++group) {
    const std::vector<std::string> names = is[group].matrices();
    for (size_t matrix = 0; matrix < names.size(); ++matrix) {
      const at::Tensor whole = large.whole.at(names[matrix]).detach();
      std::vector<at::Tensor> experts;
      for (int64_t index = 0; index < is[group].shape.count; ++index) {
        experts.push_back(made_matrix(recipe.experts[static_cast<size_t>(is[group].first + index)], was[group],
                                      static_cast<int64_t>(matrix), [&](int64_t expert) { return whole[expert - was[group].first]; }));
      }
      fill(names[matrix], at::stack(experts));
    }
  }
  fill("moe.router.weight", made_rows(recipe, large.whole.at("moe.router.weight").detach()));
  if (large.config.router.linear_bias) fill("moe.router.logit_bias", made_rows(recipe, large.whole.at("moe.router.logit_bias").detach()));
  small.layer.router().bias().copy_(made_rows(recipe, large.layer.router().bias()));
}

inline at::Tensor output_of(const LayerFixture& fixture, const at::Tensor& tokens) {
  const at::NoGradGuard no_gradients;
  std::optional<RoutingMemo> memo;
  return fixture.layer.forward(tokens, alone(tokens), memo).tokens;
}

}  // namespace pimoe
