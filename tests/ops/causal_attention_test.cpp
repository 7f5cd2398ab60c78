#include "ops/causal_attention.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <array>

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

/// [B, S, H d] from [B, S, H + 2 KV, d], position by position. @param documents  [B, S] number of each position's; undefined: one a sequence
at::Tensor reference(const at::Tensor& heads, const Sizes& sizes, const at::Tensor& documents = {}) {
  std::vector<at::Tensor> results;
  for (int64_t head = 0; head < sizes.queries; ++head) {
    const int64_t kv = head / (sizes.queries / sizes.kv_heads);
    const at::Tensor query = heads.select(2, head), key = heads.select(2, sizes.queries + kv),
                     value = heads.select(2, sizes.queries + sizes.kv_heads + kv);
    at::Tensor scores = at::matmul(query, key.transpose(1, 2)) / std::sqrt(static_cast<double>(sizes.width));
    at::Tensor unseen = at::ones({sizes.positions, sizes.positions}, at::kBool).triu(1);
    if (documents.defined()) unseen = unseen.logical_or(documents.unsqueeze(2) != documents.unsqueeze(1));
    results.push_back(at::matmul(at::softmax(scores.masked_fill(unseen, -std::numeric_limits<double>::infinity()), -1), value));
  }
  return at::cat(results, -1);
}

Operation attention(const Sizes& sizes) {
  return [=](const std::vector<at::Tensor>& inputs) {
    return causal_attention(AttentionHeads::split(inputs[0], sizes.queries, sizes.kv_heads));
  };
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

// As slices of one tensor, each by itself, and with the positions of a head side by side.
TEST(CausalAttention, TakesHeadsOfAnyLayout) {
  Random random;
  SCOPED_TRACE(random.trace());
  const Sizes sizes{2, 70, 4, 2, 16};
  for (const at::ScalarType dtype : all_dtypes()) {
    SCOPED_TRACE(concat(dtype));
    const at::Tensor together = on_device(random.normal({sizes.sequences, sizes.positions, 8, sizes.width}), dtype);
    const at::Tensor expected = reference(on_host(together), sizes);
    const AttentionHeads slices = AttentionHeads::split(together, sizes.queries, sizes.kv_heads);
    const AttentionHeads own{slices.queries.contiguous(), slices.keys.contiguous(), slices.values.contiguous()};
    const auto by_head = [](const at::Tensor& heads) { return heads.transpose(1, 2).contiguous().transpose(1, 2); };
    const AttentionHeads heads_first{by_head(slices.queries), by_head(slices.keys), by_head(slices.values)};
    for (const AttentionHeads& heads : {slices, own, heads_first, AttentionHeads{slices.queries, own.keys, heads_first.values}}) {
      expect_close(causal_attention(heads), expected, tolerance_of(dtype), 3.0);
    }
  }
}

// Values narrower and wider than keys; a scale of its own; one head of one position, whose parts are views with gaps.
TEST(CausalAttention, AndItsGradientTakeValuesOfAnotherWidthAndAnyScale) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const auto& [positions, queries, kv_heads, width, value_width] : {std::array<int64_t, 5>{70, 4, 2, 16, 10},
                                                                           {70, 4, 2, 10, 16},
                                                                           {70, 4, 2, 6, 6},
                                                                           {70, 4, 2, 7, 3},
                                                                           {1, 1, 1, 12, 6},
                                                                           {1, 1, 1, 6, 12}}) {
      for (const std::optional<double> scale : {std::optional<double>(), std::optional(0.4)}) {
        SCOPED_TRACE(concat(dtype, " positions ", positions, " widths ", width, " ", value_width, " scale ", scale.value_or(0)));
        const std::vector<Input> inputs = {{random.normal({2, positions, queries, width})},
                                           {random.normal({2, positions, kv_heads, width})},
                                           {random.normal({2, positions, kv_heads, value_width})}};
        const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
        const Operation operation = [&](const std::vector<at::Tensor>& of) { return causal_attention({of[0], of[1], of[2]}, scale); };
        std::vector<at::Tensor> exact, filled;
        for (const at::Tensor& tensor : tensors) exact.push_back(on_host(tensor).detach().set_requires_grad(true));
        // The reference knows one width, and the scale that goes with it.
        const int64_t all = std::max(width, value_width);
        const double own = scale.value_or(1 / std::sqrt(static_cast<double>(width))) * std::sqrt(static_cast<double>(all));
        for (const at::Tensor& tensor : exact) filled.push_back(at::constant_pad_nd(tensor, {0, all - tensor.size(3)}));
        const at::Tensor expected = reference(at::cat({filled[0] * own, filled[1], filled[2]}, 2), {2, positions, queries, kv_heads, all})
                                        .view({2, positions, queries, all})
                                        .narrow(3, 0, value_width)
                                        .reshape({2, positions, queries * value_width});
        const at::Tensor grad = on_host(on_device(random.normal(expected.sizes()), dtype));
        (expected * grad).sum().backward();
        const at::Tensor result = operation(tensors);
        EXPECT_TRUE(result.is_contiguous()) << result.strides() << ": what is done next needs rows";
        expect_close(result, expected.detach(), tolerance_of(dtype), 3.0);
        const auto grads = gradients(operation, tensors, grad);
        for (size_t i = 0; i < 3; ++i) expect_close(grads[i], exact[i].grad(), tolerance_of(dtype), 3.0);
      }
    }
  }
}

/// Documents of random lengths in rows of S tokens, and which of the row's each position is in.
struct Documents {
  /// @param longest  of a document, if its row has as many left
  Documents(Random& random, int64_t rows, int64_t positions, int32_t longest) : numbers(at::zeros({rows, positions}, at::kLong)) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t at = 0, number = 0; at < positions; ++number) {
        starts.push_back(static_cast<int32_t>(row * positions + at));
        const int64_t length = std::min<int64_t>(random.integers(1, 1, longest + 1)[0], positions - at);
        numbers[row].narrow(0, at, length).fill_(number);
        at += length;
      }
    }
    starts.push_back(static_cast<int32_t>(rows * positions));
  }
  PackedDocuments packed() const { return {at::tensor(starts, at::kInt), test_device()}; }

  std::vector<int32_t> starts;
  at::Tensor numbers;
};

TEST(CausalAttention, AndItsGradientStayInsideDocumentsAtAnySizeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const Sizes& sizes : all_sizes()) {
      for (const int32_t longest : {1, 3, 20, 100, 400}) {  // one token each, some in a tile, over many tiles, one a row
        SCOPED_TRACE(concat(dtype, " positions ", sizes.positions, " queries ", sizes.queries, " kv ", sizes.kv_heads, " width ",
                            sizes.width, " longest ", longest));
        const Documents documents(random, sizes.sequences, sizes.positions, longest);
        const Operation operation = [&](const std::vector<at::Tensor>& inputs) {
          const PackedDocuments packed = documents.packed();
          return causal_attention(AttentionHeads::split(inputs[0], sizes.queries, sizes.kv_heads), {}, &packed);
        };
        const std::vector<at::Tensor> tensors =
            leaves({{random.normal({sizes.sequences, sizes.positions, sizes.queries + 2 * sizes.kv_heads, sizes.width})}}, dtype);
        const at::Tensor grad = on_host(on_device(random.normal({sizes.sequences, sizes.positions, sizes.queries * sizes.width}), dtype));
        const at::Tensor exact = on_host(tensors[0]).detach().set_requires_grad(true);
        const at::Tensor expected = reference(exact, sizes, documents.numbers);
        if (expected.numel() > 0) (expected * grad).sum().backward();
        expect_close(operation(tensors), expected.detach(), tolerance_of(dtype), 3.0);
        const auto grads = gradients(operation, tensors, grad);
        expect_close(grads[0], expected.numel() > 0 ? exact.grad() : at::zeros_like(exact).detach(), tolerance_of(dtype), 3.0);
      }
    }
  }
}

// Documents beside each other in one tile: what the second has moves no bit of the others, and has no part in their gradients.
TEST(CausalAttention, WhatIsInOtherDocumentsLeavesNoTrace) {
  Random random;
  SCOPED_TRACE(random.trace());
  const PackedDocuments documents(at::tensor({0, 30, 71, 140, 150}, at::kInt), test_device());
  for (const at::ScalarType dtype : all_dtypes()) {
    SCOPED_TRACE(concat(dtype));
    const at::Tensor plain = random.normal({1, 150, 4, 16});
    at::Tensor changed = plain.clone();
    changed.narrow(1, 30, 41).mul_(300.0);
    std::vector<std::pair<at::Tensor, at::Tensor>> found;  // the others' results, and the gradient of their sum
    for (const at::Tensor& values : {plain, changed}) {
      const std::vector<at::Tensor> tensors = leaves({{values}}, dtype);
      const at::Tensor result = causal_attention(AttentionHeads::split(tensors[0], 2, 1), {}, &documents);
      const at::Tensor others = at::cat({result.narrow(1, 0, 30), result.narrow(1, 71, 79)}, 1);
      others.backward(at::ones_like(others));
      found.emplace_back(others.detach(), tensors[0].grad());
    }
    EXPECT_TRUE(at::equal(found[0].first, found[1].first));
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 30}, {71, 79}}) {
      EXPECT_TRUE(at::equal(found[0].second.narrow(1, first, count), found[1].second.narrow(1, first, count))) << first;
    }
    EXPECT_EQ(found[1].second.narrow(1, 30, 41).abs().max().item<double>(), 0.0);
  }
}

// Values of another width, a scale, and heads of several layouts, over rows of several documents.
TEST(CausalAttention, TakesDocumentsWithHeadsOfAnyWidthAndLayout) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const auto& [width, value_width] : {std::pair<int64_t, int64_t>{16, 10}, {10, 16}, {7, 3}}) {
      SCOPED_TRACE(concat(dtype, " widths ", width, " ", value_width));
      const Documents documents(random, 2, 90, 50);
      const PackedDocuments packed = documents.packed();
      const at::Tensor queries = on_device(random.normal({2, 90, 4, width}), dtype),
                       keys = on_device(random.normal({2, 90, 2, width}), dtype),
                       values = on_device(random.normal({2, 90, 2, value_width}), dtype);
      const int64_t all = std::max(width, value_width);
      const auto filled = [&](const at::Tensor& part) { return at::constant_pad_nd(on_host(part), {0, all - part.size(3)}); };
      const at::Tensor heads = at::cat({filled(queries) * 0.4 * std::sqrt(static_cast<double>(all)), filled(keys), filled(values)}, 2);
      const at::Tensor expected = reference(heads, {2, 90, 4, 2, all}, documents.numbers)
                                      .view({2, 90, 4, all})
                                      .narrow(3, 0, value_width)
                                      .reshape({2, 90, 4 * value_width});
      const auto by_head = [](const at::Tensor& part) { return part.transpose(1, 2).contiguous().transpose(1, 2); };
      expect_close(causal_attention({queries, keys, values}, 0.4, &packed), expected, tolerance_of(dtype), 3.0);
      expect_close(causal_attention({by_head(queries), keys, by_head(values)}, 0.4, &packed), expected, tolerance_of(dtype), 3.0);
    }
  }
}

TEST(CausalAttention, RefusesDocumentsThatAreNotOfItsRows) {
  const AttentionHeads heads = AttentionHeads::split(at::zeros({2, 4, 3, 8}, at::TensorOptions().device(test_device())), 1, 1);
  const auto attend = [&](const std::vector<int32_t>& starts) {
    const PackedDocuments documents(at::tensor(starts, at::kInt), test_device());
    return causal_attention(heads, {}, &documents);
  };
  EXPECT_NO_THROW(attend({0, 3, 4, 8}));
  EXPECT_THROW(attend({0, 3, 8}), ShapeError) << "one spans both rows";
  EXPECT_THROW(attend({0, 4, 7}), ShapeError) << "a token is missing";
  EXPECT_THROW(attend({1, 4, 8}), ShapeError);
  EXPECT_THROW(attend({0, 4, 4, 8}), ShapeError) << "an empty one";
  EXPECT_THROW(PackedDocuments(at::tensor({0, 4, 8}, at::kLong), test_device()), ShapeError);
  EXPECT_THROW(PackedDocuments(at::Tensor(), test_device()), ShapeError);
}

TEST(CausalAttention, RefusesHeadsThatDoNotAddUp) {
  const at::Tensor heads = at::zeros({1, 4, 5, 8}, at::TensorOptions().device(test_device()));
  const AttentionHeads right = AttentionHeads::split(heads, 3, 1);
  EXPECT_THROW(AttentionHeads::split(heads, 2, 1), ShapeError);
  EXPECT_THROW(AttentionHeads::split(heads.select(0, 0), 3, 1), ShapeError);
  EXPECT_THROW(causal_attention({right.queries, right.queries.narrow(2, 0, 2), right.queries.narrow(2, 0, 2)}), ShapeError);
  EXPECT_THROW(causal_attention({right.queries, right.keys.narrow(2, 0, 0), right.values.narrow(2, 0, 0)}), ShapeError);
  EXPECT_THROW(causal_attention({right.queries, right.keys, right.values.narrow(1, 0, 3)}), ShapeError);
  EXPECT_THROW(causal_attention({right.queries, right.keys.to(at::kDouble), right.values}), ShapeError);
}

}  // namespace causal_attention_tests
}  // namespace pimoe::checks
