#include "ops/top_k.h"

#include "ops/launch.h"

#include <ATen/ops/empty.h>

namespace pimoe {

at::Tensor top_k(const at::Tensor& scores, int64_t k) {
  check_shape(scores.dim() == 2 && (scores.scalar_type() == at::kFloat || scores.scalar_type() == at::kDouble), "top_k: scores is ",
              describe(scores), ", needs [T, E] in float32 or float64");
  check_operand("scores", scores, scores.scalar_type(), scores);
  const int64_t experts = scores.size(1);
  check_shape(1 <= k && k <= experts, "top_k: k (", k, ") must be in [1, ", experts, "], the columns of scores ", describe(scores));
  const int64_t tokens = scores.size(0);
  const at::Tensor chosen = at::empty({tokens, k}, scores.options().dtype(at::kInt).requires_grad(false));
  const TopKArguments arguments{dtype_of(scores), experts, k, scores.const_data_ptr(), chosen.mutable_data_ptr<int32_t>()};
  launch(
      scores, tokens, 8 * experts, [&](int64_t begin, int64_t end) { cpu::top_k(arguments, begin, end); },
      [&] { cuda::top_k(arguments, tokens); });
  return chosen;
}

}  // namespace pimoe
