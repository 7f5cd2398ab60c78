#include "ops/causal_attention.h"

#include "base/errors.h"
#include "ops/op_checks.h"

namespace pimoe::checks {
namespace causal_attention_tests {

struct Sizes {
  int64_t sequences, positions, queries, kv_heads, width;
};

/// Below, at and past the 64 positions of a tile, odd numbers of them, grouped queries, no sequence; at odd widths pairs do not come out even.
const std::vector<Sizes>& all_sizes() {
  static const std::vector<Sizes> sizes = {{2, 1, 1, 1, 4},    {1, 5, 4, 2, 8},    {2, 64, 2, 1, 16}, {1, 65, 2, 2, 6},
                                           {1, 131, 3, 1, 32}, {1, 320, 2, 1, 64}, {1, 7, 2, 1, 5},   {0, 16, 2, 1, 8}};
  return sizes;
}

/// [B, S, H d] from [B, S, H + 2 KV, d], position by position.
at::Tensor reference(const at::Tensor& heads, const Sizes& sizes) {
  std::vector<at::Tensor> results;
  for (int64_t head = 0; head < sizes.queries; ++head) {
    const int64_t kv = head / (sizes.queries / sizes.kv_heads);
    const at::Tensor query = heads.select(2, head), key = heads.select(2, sizes.queries + kv),
                     value = heads.select(2, sizes.queries + sizes.kv_heads + kv);
    at::Tensor scores = at::matmul(query, key.transpose(1, 2)) / std::sqrt(static_cast<double>(sizes.width));
    const at::Tensor later = at::ones({sizes.positions, sizes.positions}, at::kBool).triu(1);
    results.push_back(at::matmul(at::softmax(scores.masked_fill(later, -std::numeric_limits<double>::infinity()), -1), value));
  }
  return at::cat(results, -1);
}

Operation attention(const Sizes& sizes) {
  return [=](const std::vector<at::Tensor>& inputs) { return causal_attention(inputs[0], sizes.queries, sizes.kv_heads); };
}

TEST(CausalAttention, AndItsGradientMatchSoftmaxOverEarlierPositionsAtAnySizeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const Sizes& sizes : all_sizes()) {
      SCOPED_TRACE(
          concat(dtype, " positions ", sizes.positions, " queries ", sizes.queries, " kv ", sizes.kv_heads, " width ", sizes.width));
      const std::vector<Input> inputs = {
          {random.normal({sizes.sequences, sizes.positions, sizes.queries + 2 * sizes.kv_heads, sizes.width})}};
      const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
      const at::Tensor grad = on_host(on_device(random.normal({sizes.sequences, sizes.positions, sizes.queries * sizes.width}), dtype));
      const at::Tensor exact = on_host(tensors[0]).detach().set_requires_grad(true);
      const at::Tensor expected = reference(exact, sizes);
      if (expected.numel() > 0) (expected * grad).sum().backward();
      const double scale = 3.0;
      expect_close(attention(sizes)(tensors), expected.detach(), tolerance_of(dtype), scale);
      const auto grads = gradients(attention(sizes), tensors, grad);
      expect_close(grads[0], expected.numel() > 0 ? exact.grad() : at::zeros_like(exact).detach(), tolerance_of(dtype), scale);
    }
  }
}

TEST(CausalAttention, RefusesHeadsThatDoNotAddUp) {
  const at::Tensor heads = at::zeros({1, 4, 5, 8}, at::TensorOptions().device(test_device()));
  EXPECT_THROW(causal_attention(heads, 2, 1), ShapeError);
  EXPECT_THROW(causal_attention(heads, 3, 0), ShapeError);
  EXPECT_THROW(causal_attention(heads.select(0, 0), 3, 1), ShapeError);
}

}  // namespace causal_attention_tests
}  // namespace pimoe::checks
