#pragma once

#include "moe/moe_config.h"
#include "moe/routing.h"

#include <string>

namespace pimoe {

/// What every layer of a model expects of its tokens.
struct TokenShape {
  int64_t width;  ///< D
  at::ScalarType dtype;
  c10::Device device;
};

/// What enters a layer. @param name  of the layer, in messages  @throws ShapeError
void check_tokens(const std::string& name, const at::Tensor& tokens, const BatchContext& context, const TokenShape& expected);

/// The ids that a router chose: a GPU's kernels leave ids out that are not there.
/// @param experts  [T, K] int32, each in [-1, expert_count)
/// @throws ShapeError; on a GPU under `validate: cheap` a device-side assertion instead, and c10::Error wherever the host next waits for it
/// @cost a host synchronisation, none under `cheap` on a GPU
void check_expert_ids(const std::string& name, const at::Tensor& experts, int64_t expert_count, MoeValidate checks);

}  // namespace pimoe
