#include "moe/layer_checks.h"

#include "base/errors.h"
#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_assert_async.h>

namespace pimoe {

void check_tokens(const std::string& name, const at::Tensor& tokens, const BatchContext& context, const TokenShape& expected) {
  if (tokens.dim() != 2 || tokens.size(1) != expected.width || !tokens.is_contiguous() || tokens.device() != expected.device ||
      tokens.scalar_type() != expected.dtype) {
    throw ShapeError(concat(name, ": tokens ", tokens.sizes(), " of ", c10::toString(tokens.scalar_type()), " on ", tokens.device().str(),
                            " must be contiguous [T, ", expected.width, "] of ", c10::toString(expected.dtype), " on ",
                            expected.device.str()));
  }
  const auto require = [&](const at::Tensor& of_tokens, const char* what, at::ScalarType dtype) {
    if (!of_tokens.defined() || (of_tokens.numel() == tokens.size(0) && of_tokens.scalar_type() == dtype)) return;
    throw ShapeError(concat(name, ": BatchContext::", what, " ", of_tokens.sizes(), " of ", c10::toString(of_tokens.scalar_type()),
                            " must be ", tokens.size(0), " of ", c10::toString(dtype)));
  };
  require(context.token_ids, "token_ids", at::kLong);
  require(context.counted, "counted", at::kBool);
}

void check_expert_ids(const std::string& name, const at::Tensor& experts, int64_t expert_count, MoeValidate checks) {
  if (experts.numel() == 0) return;
  if (checks == MoeValidate::kCheap && experts.is_cuda()) {
    // The device looks, and nobody waits: what is wrong ends the run at its next synchronisation.
    at::_assert_async(experts.ge(-1).logical_and(experts.lt(expert_count)).all(),
                      concat(name, ": an expert is not in [-1, ", expert_count, "): model.moe.validate=full says which"));
    return;
  }
  const auto least = experts.min().item<int32_t>();
  const auto most = experts.max().item<int32_t>();
  if (least < -1 || most >= expert_count) {
    throw ShapeError(concat(name, ": experts from ", least, " to ", most, " must be in [0, ", expert_count, "), or -1 for none"));
  }
}

}  // namespace pimoe
