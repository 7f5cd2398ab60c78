#include "ops/causal_attention.h"

#include "ops/launch.h"
#include "ops/tile_kernels.h"
#include "ops/tile_product.h"

#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlock = kTileRows;  // queries, and keys, of a tile of scores
constexpr int64_t kPairs = kBlock / 2;

/// Sizes of one call, and where the rows of one head of one sequence begin.
struct Shape {
  Shape(const at::Tensor& heads, int64_t query_heads, int64_t kv)
      : sequences(heads.size(0)),
        positions(heads.size(1)),
        queries(query_heads),
        kv_heads(kv),
        width(heads.size(3)),
        stride(heads.size(2) * width),
        blocks((positions + kBlock - 1) / kBlock),
        scale(1.0F / std::sqrt(static_cast<float>(width))) {}

  int64_t rows_of(int64_t block) const { return std::min(kBlock, positions - block * kBlock); }
  /// @param head  queries, then keys, then values
  int64_t first(int64_t sequence, int64_t head) const { return sequence * positions * stride + head * width; }
  /// Of the result.
  int64_t first_result(int64_t sequence, int64_t head) const { return (sequence * positions * queries + head) * width; }
  int64_t result_stride() const { return queries * width; }

  int64_t sequences, positions, queries, kv_heads, width, stride, blocks;
  float scale;
};

/// Each block of rows turned, in pairs: [blocks][d / 2][kBlock], zeros past the last row.
TileRoom<uint32_t> turned_blocks(const Shape& shape, const uint16_t* rows, int64_t stride) {
  TileRoom<uint32_t> pairs = TileRoom<uint32_t>::zeros(shape.blocks * shape.width / 2 * kBlock);
  for (int64_t block = 0; block < shape.blocks; ++block) {
    cpu::pack_pairs_turned(rows + block * kBlock * stride, stride, shape.rows_of(block), shape.width,
                           pairs.data() + block * shape.width / 2 * kBlock, kBlock);
  }
  return pairs;
}

/// All rows, two side by side: [blocks][kPairs][d], zeros past the last row.
TileRoom<uint32_t> paired_rows(const Shape& shape, const uint16_t* rows, int64_t stride) {
  TileRoom<uint32_t> pairs = TileRoom<uint32_t>::zeros(shape.blocks * kPairs * shape.width);
  cpu::pack_pairs(rows, stride, shape.positions, shape.width, pairs.data(), shape.width);
  return pairs;
}

void attend(const Shape& shape, const uint16_t* heads, int64_t sequence, int64_t head, uint16_t* result, float* logsumexp) {
  const int64_t kv = head / (shape.queries / shape.kv_heads);
  const uint16_t* query = heads + shape.first(sequence, head);
  const TileRoom<uint32_t> keys = turned_blocks(shape, heads + shape.first(sequence, shape.queries + kv), shape.stride);
  const TileRoom<uint32_t> values = paired_rows(shape, heads + shape.first(sequence, shape.queries + shape.kv_heads + kv), shape.stride);
  const int64_t columns = shape.blocks * kBlock;
  const TileRoom<float> scores(kBlock * columns), mixed(kBlock * shape.width);
  const TileRoom<uint16_t> shares(kBlock * columns);
  for (int64_t block = 0; block < shape.blocks; ++block) {
    const int64_t rows = shape.rows_of(block);
    for (int64_t other = 0; other <= block; ++other) {
      multiply_block(rows, kBlock, shape.width, query + block * kBlock * shape.stride, shape.stride,
                     keys.data() + other * shape.width / 2 * kBlock, kBlock, scores.data() + other * kBlock, columns, false);
    }
    float sums[kBlock];
    cpu::causal_softmax(scores.data(), columns, rows, block * kBlock, shape.scale, shares.data(), sums, logsumexp + block * kBlock);
    multiply_block(rows, shape.width, (block + 1) * kBlock, shares.data(), columns, values.data(), shape.width, mixed.data(), shape.width,
                   false);
    for (int64_t row = 0; row < rows; ++row) {
      float* line = mixed.data() + row * shape.width;
      for (int64_t i = 0; i < shape.width; ++i) line[i] /= sums[row];
    }
    cpu::narrow_rows(mixed.data(), shape.width, rows, shape.width, result + block * kBlock * shape.result_stride(), shape.result_stride());
  }
}

/// What backward reads and writes.
struct Backward {
  const uint16_t* heads;
  const uint16_t* result;
  const uint16_t* grad_result;
  const float* logsumexp;
  uint16_t* grad_heads;
};

/// Gradients of one head of keys and values and of the queries that look at it. Scores are made turned, [keys, queries]: keys' and values'
/// gradients then take them as they are, and sums over keys are never needed.
void attend_backward(const Shape& shape, const Backward& b, int64_t sequence, int64_t kv) {
  const int64_t group = shape.queries / shape.kv_heads;
  const int64_t width = shape.width;
  const int64_t key_first = shape.first(sequence, shape.queries + kv);
  const int64_t value_first = shape.first(sequence, shape.queries + shape.kv_heads + kv);
  const int64_t columns = shape.blocks * kBlock;
  const TileRoom<uint16_t> keys_turned = TileRoom<uint16_t>::zeros(columns * width);  // [blocks][d][kBlock]
  for (int64_t block = 0; block < shape.blocks; ++block) {
    cpu::turn(b.heads + key_first + block * kBlock * shape.stride, shape.stride, shape.rows_of(block), width,
              keys_turned.data() + block * width * kBlock, kBlock);
  }
  const TileRoom<float> grad_key = TileRoom<float>::zeros(columns * width), grad_value = TileRoom<float>::zeros(columns * width);
  const TileRoom<float> grad_query = TileRoom<float>::zeros(columns * width);  // [blocks][d][kBlock]
  const TileRoom<float> scores(kBlock * kBlock), grad_shares(kBlock * kBlock);
  const TileRoom<uint16_t> shares(kBlock * kBlock), grad_scores(kBlock * kBlock);
  const TileRoom<uint32_t> grad_pairs(kPairs * kBlock);
  for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
    const uint16_t* query = b.heads + shape.first(sequence, head);
    const uint16_t* grad = b.grad_result + shape.first_result(sequence, head);
    const int64_t result_stride = shape.result_stride();
    const TileRoom<uint32_t> query_turned = turned_blocks(shape, query, shape.stride);
    const TileRoom<uint32_t> query_pairs = paired_rows(shape, query, shape.stride);
    const TileRoom<uint32_t> grad_turned = turned_blocks(shape, grad, result_stride);
    const TileRoom<uint32_t> grad_pairs_of_result = paired_rows(shape, grad, result_stride);
    std::vector<float> dots(static_cast<size_t>(columns));
    cpu::row_dots(grad, b.result + shape.first_result(sequence, head), result_stride, shape.positions, width, dots.data());
    // Nothing looks from past the last position: shares of e^-big.
    std::vector<float> logsumexp(static_cast<size_t>(columns), 1e30F);
    std::copy_n(b.logsumexp + (sequence * shape.queries + head) * shape.positions, shape.positions, logsumexp.begin());

    for (int64_t block = 0; block < shape.blocks; ++block) {
      const int64_t rows = shape.rows_of(block);
      const int64_t first = block * kBlock;
      for (int64_t other = block; other < shape.blocks; ++other) {
        const int64_t turned = other * width / 2 * kBlock;
        const int64_t paired = other * kPairs * width;
        multiply_block(rows, kBlock, width, b.heads + key_first + first * shape.stride, shape.stride, query_turned.data() + turned, kBlock,
                       scores.data(), kBlock, false);
        multiply_block(rows, kBlock, width, b.heads + value_first + first * shape.stride, shape.stride, grad_turned.data() + turned, kBlock,
                       grad_shares.data(), kBlock, false);
        cpu::causal_softmax_backward({.keys = rows,
                                      .queries = kBlock,
                                      .diagonal = other == block,
                                      .scale = shape.scale,
                                      .scores = scores.data(),
                                      .grad_shares = grad_shares.data(),
                                      .logsumexp = logsumexp.data() + other * kBlock,
                                      .dots = dots.data() + other * kBlock,
                                      .shares = shares.data(),
                                      .grad_scores = grad_scores.data()});
        multiply_block(rows, width, kBlock, shares.data(), kBlock, grad_pairs_of_result.data() + paired, width,
                       grad_value.data() + first * width, width, true);
        multiply_block(rows, width, kBlock, grad_scores.data(), kBlock, query_pairs.data() + paired, width, grad_key.data() + first * width,
                       width, true);
        cpu::pack_pairs(grad_scores.data(), kBlock, rows, kBlock, grad_pairs.data(), kBlock);
        std::fill(grad_pairs.data() + (rows + 1) / 2 * kBlock, grad_pairs.data() + kPairs * kBlock, 0U);
        multiply_block(width, kBlock, kBlock, keys_turned.data() + block * width * kBlock, kBlock, grad_pairs.data(), kBlock,
                       grad_query.data() + other * width * kBlock, kBlock, block > 0);
      }
    }
    std::vector<float> line(static_cast<size_t>(width));
    for (int64_t position = 0; position < shape.positions; ++position) {
      const float* column = grad_query.data() + position / kBlock * width * kBlock + position % kBlock;
      for (int64_t i = 0; i < width; ++i) line[static_cast<size_t>(i)] = column[i * kBlock];
      cpu::narrow_rows(line.data(), width, 1, width, b.grad_heads + shape.first(sequence, head) + position * shape.stride, width);
    }
  }
  cpu::narrow_rows(grad_key.data(), width, shape.positions, width, b.grad_heads + key_first, shape.stride);
  cpu::narrow_rows(grad_value.data(), width, shape.positions, width, b.grad_heads + value_first, shape.stride);
}

class TiledAttention : public torch::autograd::Function<TiledAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& heads, int64_t queries, int64_t kv_heads) {
    const Shape shape(heads, queries, kv_heads);
    const auto options = heads.options().requires_grad(false);
    at::Tensor result = at::empty({shape.sequences, shape.positions, queries * shape.width}, options);
    const at::Tensor logsumexp = at::empty({shape.sequences, queries, shape.positions}, options.dtype(at::kFloat));
    auto* const out = static_cast<uint16_t*>(result.mutable_data_ptr());
    float* const sums = logsumexp.mutable_data_ptr<float>();
    if (shape.positions > 0) {
      parallel_tasks(shape.sequences * queries, [&](int64_t begin, int64_t end) {
        const TileUnit unit;
        for (int64_t index = begin; index < end; ++index) {
          const int64_t sequence = index / queries;
          const int64_t head = index % queries;
          attend(shape, bits_of(heads), sequence, head, out + shape.first_result(sequence, head), sums + index * shape.positions);
        }
      });
    }
    context->save_for_backward({heads, result, logsumexp});
    context->saved_data["queries"] = queries;
    context->saved_data["kv_heads"] = kv_heads;
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor grad = grads[0].contiguous();
    const Shape shape(saved[0], context->saved_data["queries"].toInt(), context->saved_data["kv_heads"].toInt());
    at::Tensor grad_heads = at::empty_like(saved[0]);
    const Backward b{bits_of(saved[0]), bits_of(saved[1]), bits_of(grad), saved[2].const_data_ptr<float>(),
                     static_cast<uint16_t*>(grad_heads.mutable_data_ptr())};
    parallel_tasks(shape.sequences * shape.kv_heads, [&](int64_t begin, int64_t end) {
      const TileUnit unit;
      for (int64_t index = begin; index < end; ++index) attend_backward(shape, b, index / shape.kv_heads, index % shape.kv_heads);
    });
    return {grad_heads, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor causal_attention(const at::Tensor& heads, int64_t queries, int64_t kv_heads) {
  check_shape(heads.dim() == 4 && kv_heads > 0 && queries % kv_heads == 0 && heads.size(2) == queries + 2 * kv_heads,
              "causal_attention: heads is ", describe(heads), ", needs [B, S, H + 2 KV, d] with H = ", queries, ", KV = ", kv_heads);
  dtype_of(heads);
  check_operand("heads", heads, heads.scalar_type(), heads);
  if (has_tile_product(heads) && heads.size(3) % 2 == 0) return TiledAttention::apply(heads, queries, kv_heads);

  const auto parts = heads.transpose(1, 2).split_with_sizes({queries, kv_heads, kv_heads}, 1);  // [B, heads, S, d]
  const bool grouped = queries != kv_heads;
  // The fused kernels divide by the batch; an empty one takes the composed path, whose gradients are the empty tensors that they should be.
  const at::Tensor mixed =
      heads.size(0) == 0
          ? std::get<0>(at::_scaled_dot_product_attention_math(parts[0], parts[1], parts[2], {}, 0.0, true, {}, std::nullopt, grouped))
          : at::scaled_dot_product_attention(parts[0], parts[1], parts[2], {}, 0.0, true, std::nullopt, grouped);
  return mixed.transpose(1, 2).reshape({heads.size(0), heads.size(1), queries * heads.size(3)});
}

}  // namespace pimoe
