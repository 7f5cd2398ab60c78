#include "ops/causal_attention.h"

#include "ops/document_attention.h"
#include "ops/head_rows.h"
#include "ops/launch.h"
#include "ops/tile_kernels.h"
#include "ops/tile_product.h"

#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlock = kTileRows;  // queries, and keys, of a tile of scores
constexpr int64_t kPairs = kBlock / 2;
constexpr int64_t kMostQueries = RightMatrix::kWidth;  // that backward looks at a block of keys from at a time

using FirstKeys = std::array<int32_t, kMostQueries>;

/// Heads of one kind: [B, S, n, d] of which the heads of a position lie side by side.
template <class Number>
struct Heads {
  /// Of one head of one sequence; those of its positions follow every `stride`.
  Number* first(int64_t sequence, int64_t head) const { return data + sequence * sequence_stride + head * width; }

  Number* data;
  int64_t sequence_stride, stride, width;
};
using HeadsRead = Heads<const uint16_t>;
using HeadsWritten = Heads<uint16_t>;

HeadsRead heads_of(const at::Tensor& heads) { return {bits_of(heads), heads.stride(0), heads.stride(1), heads.size(3)}; }
HeadsWritten mutable_heads_of(const at::Tensor& heads) { return {mutable_bits_of(heads), heads.stride(0), heads.stride(1), heads.size(3)}; }

/// Sizes of one call, and what is seen in it.
struct Shape {
  /// @param positions_inside  [B S] int64, of each position within its document; undefined: a sequence is one
  Shape(const at::Tensor& query, const at::Tensor& key, double given_scale, const at::Tensor& positions_inside)
      : sequences(query.size(0)),
        positions(query.size(1)),
        queries(query.size(2)),
        kv_heads(key.size(2)),
        width(query.size(3)),
        blocks((positions + kBlock - 1) / kBlock),
        scale(given_scale > 0 ? static_cast<float>(given_scale) : 1.0F / std::sqrt(static_cast<float>(width))),
        inside(positions_inside.defined() ? positions_inside.const_data_ptr<int64_t>() : nullptr) {}

  int64_t rows_of(int64_t block) const { return std::min(kBlock, positions - block * kBlock); }
  /// The first of the positions that one sees, which follow one another up to itself.
  int64_t first_seen(int64_t sequence, int64_t position) const {
    return inside == nullptr ? 0 : position - inside[sequence * positions + position];
  }
  /// The first block of keys that a block of queries looks at; never before that of an earlier one.
  int64_t first_block(int64_t sequence, int64_t block) const { return first_seen(sequence, block * kBlock) / kBlock; }
  /// What tile_kernels.h calls first_keys, of `count` queries, counted from key `from`; null where a sequence is one document.
  const int32_t* first_keys(int64_t sequence, int64_t query, int64_t count, int64_t from, FirstKeys& room) const {
    if (inside == nullptr) return nullptr;
    for (int64_t row = 0; row < count; ++row) {
      room[static_cast<size_t>(row)] = query + row < positions ? static_cast<int32_t>(first_seen(sequence, query + row) - from) : 0;
    }
    return room.data();
  }

  int64_t sequences, positions, queries, kv_heads, width, blocks;
  float scale;
  const int64_t* inside;
};

/// The rows of a head turned, in pairs, as the right side of products: d terms, a column for each position, zeros past the last one.
class TurnedRows {
 public:
  TurnedRows(const Shape& shape, const uint16_t* rows, int64_t stride)
      : pairs_(TileRoom<uint32_t>::zeros(shape.width / 2 * shape.blocks * kBlock)),
        matrix_{pairs_.data(), shape.width / 2, shape.blocks * kBlock} {
    for (int64_t first = 0; first < shape.positions; first += kBlock) {
      cpu::pack_pairs_turned(rows + first * stride, stride, std::min(kBlock, shape.positions - first), shape.width, matrix_.at(0, first),
                             matrix_.stride(first));
    }
  }
  const RightMatrix& matrix() const { return matrix_; }

 private:
  TileRoom<uint32_t> pairs_;
  RightMatrix matrix_;
};

/// All rows, two side by side: [blocks][kPairs][d], zeros past the last row.
TileRoom<uint32_t> paired_rows(const Shape& shape, const uint16_t* rows, int64_t stride) {
  TileRoom<uint32_t> pairs = TileRoom<uint32_t>::zeros(shape.blocks * kPairs * shape.width);
  cpu::pack_pairs(rows, stride, shape.positions, shape.width, pairs.data(), shape.width);
  return pairs;
}

/// What forward reads.
struct Forward {
  HeadsRead queries, keys, values;
};

void attend(const Shape& shape, const Forward& f, int64_t sequence, int64_t head, const HeadsWritten& result, float* logsumexp) {
  const int64_t kv = head / (shape.queries / shape.kv_heads);
  const uint16_t* query = f.queries.first(sequence, head);
  uint16_t* mixed_rows = result.first(sequence, head);
  const TurnedRows keys(shape, f.keys.first(sequence, kv), f.keys.stride);
  const TileRoom<uint32_t> values = paired_rows(shape, f.values.first(sequence, kv), f.values.stride);
  const int64_t columns = shape.blocks * kBlock;
  const TileRoom<float> scores(kBlock * columns), mixed(kBlock * shape.width);
  const TileRoom<uint16_t> shares(kBlock * columns);
  FirstKeys room;
  for (int64_t block = 0; block < shape.blocks; ++block) {
    const int64_t rows = shape.rows_of(block);
    const int64_t first_block = shape.first_block(sequence, block);
    const int64_t first = first_block * kBlock;
    const int64_t seen = (block + 1) * kBlock - first;
    multiply_tile(rows, query + block * kBlock * f.queries.stride, f.queries.stride, keys.matrix(), {first, seen, 0, shape.width},
                  scores.data() + first, columns, false);
    float sums[kBlock];
    cpu::causal_softmax({.stride = columns,
                         .rows = rows,
                         .first = block * kBlock - first,
                         .first_keys = shape.first_keys(sequence, block * kBlock, rows, first, room),
                         .scale = shape.scale,
                         .scores = scores.data() + first,
                         .shares = shares.data() + first,
                         .sums = sums,
                         .logsumexp = logsumexp + block * kBlock});
    multiply_block(rows, shape.width, seen, shares.data() + first, columns, values.data() + first_block * kPairs * shape.width, shape.width,
                   mixed.data(), shape.width, false);
    cpu::narrow_rows(mixed.data(), shape.width, rows, shape.width, mixed_rows + block * kBlock * result.stride, result.stride, sums);
  }
}

/// What backward reads and writes.
struct Backward {
  Forward heads;
  HeadsRead result, grad_result;
  const float* logsumexp;
  HeadsWritten grad_queries, grad_keys, grad_values;
};

/// Gradients of one head of keys and values and of the queries that look at it. Scores are made turned, [keys, queries]: keys' and values'
/// gradients then take them as they are, and sums over keys are never needed.
void attend_backward(const Shape& shape, const Backward& b, int64_t sequence, int64_t kv) {
  const int64_t group = shape.queries / shape.kv_heads;
  const int64_t width = shape.width;
  const uint16_t* keys = b.heads.keys.first(sequence, kv);
  const uint16_t* values = b.heads.values.first(sequence, kv);
  const int64_t key_stride = b.heads.keys.stride;
  const int64_t value_stride = b.heads.values.stride;
  const int64_t columns = shape.blocks * kBlock;
  const TileRoom<uint16_t> keys_turned = TileRoom<uint16_t>::zeros(columns * width);  // [blocks][d][kBlock]
  for (int64_t block = 0; block < shape.blocks; ++block) {
    cpu::turn(keys + block * kBlock * key_stride, key_stride, shape.rows_of(block), width, keys_turned.data() + block * width * kBlock,
              kBlock);
  }
  const TileRoom<float> grad_key = TileRoom<float>::zeros(columns * width), grad_value = TileRoom<float>::zeros(columns * width);
  const TileRoom<float> grad_query(width * columns);  // [d][columns]
  const TileRoom<float> scores(kBlock * kMostQueries), grad_shares(kBlock * kMostQueries);
  const TileRoom<uint16_t> shares(kBlock * kMostQueries), grad_scores(kBlock * kMostQueries), narrow(width * kBlock);
  const TileRoom<uint32_t> grad_pairs(kPairs * kMostQueries);
  FirstKeys room;
  for (int64_t head = kv * group; head < (kv + 1) * group; ++head) {
    const uint16_t* query = b.heads.queries.first(sequence, head);
    const uint16_t* grad = b.grad_result.first(sequence, head);
    const int64_t result_stride = b.result.stride;
    const TurnedRows query_turned(shape, query, b.heads.queries.stride);
    const TileRoom<uint32_t> query_pairs = paired_rows(shape, query, b.heads.queries.stride);
    const TurnedRows grad_turned(shape, grad, result_stride);
    const TileRoom<uint32_t> grad_pairs_of_result = paired_rows(shape, grad, result_stride);
    std::vector<float> dots(static_cast<size_t>(columns));
    cpu::row_dots(grad, b.result.first(sequence, head), result_stride, shape.positions, width, dots.data());
    // Nothing looks from past the last position: shares of e^-big.
    std::vector<float> logsumexp(static_cast<size_t>(columns), 1e30F);
    std::copy_n(b.logsumexp + (sequence * shape.queries + head) * shape.positions, shape.positions, logsumexp.begin());

    std::fill_n(grad_query.data(), width * columns, 0.0F);
    for (int64_t block = 0; block < shape.blocks; ++block) {
      const int64_t rows = shape.rows_of(block);
      const int64_t first = block * kBlock;
      // Once a block's queries see none of these keys, those of later ones do not either.
      const auto sees = [&](int64_t other) { return other < shape.blocks && shape.first_block(sequence, other) <= block; };
      for (int64_t other = block, next; sees(other); other = next) {
        next = other + 1;
        while (sees(next) && next * kBlock % kMostQueries != 0) ++next;
        const int64_t query_first = other * kBlock;
        const int64_t queries = (next - other) * kBlock;
        const RightPart part{query_first, queries, 0, width};
        multiply_tile(rows, keys + first * key_stride, key_stride, query_turned.matrix(), part, scores.data(), queries, false);
        multiply_tile(rows, values + first * value_stride, value_stride, grad_turned.matrix(), part, grad_shares.data(), queries, false);
        cpu::causal_softmax_backward({.keys = rows,
                                      .queries = queries,
                                      .diagonal = other == block,
                                      .first_keys = shape.first_keys(sequence, query_first, queries, first, room),
                                      .scale = shape.scale,
                                      .scores = scores.data(),
                                      .grad_shares = grad_shares.data(),
                                      .logsumexp = logsumexp.data() + query_first,
                                      .dots = dots.data() + query_first,
                                      .shares = shares.data(),
                                      .grad_scores = grad_scores.data()});
        const int64_t paired = query_first / 2 * width;
        multiply_block(rows, width, queries, shares.data(), queries, grad_pairs_of_result.data() + paired, width,
                       grad_value.data() + first * width, width, true);
        multiply_block(rows, width, queries, grad_scores.data(), queries, query_pairs.data() + paired, width,
                       grad_key.data() + first * width, width, true);
        cpu::pack_pairs(grad_scores.data(), queries, rows, queries, grad_pairs.data(), queries);
        std::fill(grad_pairs.data() + (rows + 1) / 2 * queries, grad_pairs.data() + kPairs * queries, 0U);
        multiply_block(width, queries, kBlock, keys_turned.data() + block * width * kBlock, kBlock, grad_pairs.data(), queries,
                       grad_query.data() + query_first, columns, true);
      }
    }
    uint16_t* grad_query_rows = b.grad_queries.first(sequence, head);
    for (int64_t first = 0; first < shape.positions; first += kBlock) {
      const int64_t rows = std::min(kBlock, shape.positions - first);
      cpu::narrow_rows(grad_query.data() + first, columns, width, rows, narrow.data(), kBlock);
      cpu::turn(narrow.data(), kBlock, width, rows, grad_query_rows + first * b.grad_queries.stride, b.grad_queries.stride);
    }
  }
  cpu::narrow_rows(grad_key.data(), width, shape.positions, width, b.grad_keys.first(sequence, kv), b.grad_keys.stride);
  cpu::narrow_rows(grad_value.data(), width, shape.positions, width, b.grad_values.first(sequence, kv), b.grad_values.stride);
}

class TiledAttention : public torch::autograd::Function<TiledAttention> {
 public:
  /// @param scale  0: 1 / sqrt(d)  @param given_inside  as Shape; nothing: none  @returns [B, S, H, d]
  static at::Tensor forward(AutogradContext* context, const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                            double scale, const std::optional<at::Tensor>& given_inside) {
    const at::Tensor inside = given_inside.value_or(at::Tensor());
    const Shape shape(queries, keys, scale, inside);
    const auto options = queries.options().requires_grad(false);
    const at::Tensor result = at::empty(queries.sizes(), options);
    const at::Tensor logsumexp = at::empty({shape.sequences, shape.queries, shape.positions}, options.dtype(at::kFloat));
    const Forward f{heads_of(queries), heads_of(keys), heads_of(values)};
    const HeadsWritten out = mutable_heads_of(result);
    float* const sums = logsumexp.mutable_data_ptr<float>();
    if (shape.positions > 0) {
      parallel_tasks(shape.sequences * shape.queries, [&](int64_t begin, int64_t end) {
        const TileUnit unit;
        for (int64_t index = begin; index < end; ++index) {
          attend(shape, f, index / shape.queries, index % shape.queries, out, sums + index * shape.positions);
        }
      });
    }
    context->save_for_backward({queries, keys, values, result, logsumexp, inside});
    context->saved_data["scale"] = scale;
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const Shape shape(saved[0], saved[1], context->saved_data["scale"].toDouble(), saved[5]);
    const at::Tensor grad_result = grads[0].contiguous();
    const auto options = grad_result.options().requires_grad(false);
    const variable_list grad_heads = {at::empty(saved[0].sizes(), options), at::empty(saved[1].sizes(), options),
                                      at::empty(saved[2].sizes(), options)};
    const Backward b{.heads = {heads_of(saved[0]), heads_of(saved[1]), heads_of(saved[2])},
                     .result = heads_of(saved[3]),
                     .grad_result = heads_of(grad_result),
                     .logsumexp = saved[4].const_data_ptr<float>(),
                     .grad_queries = mutable_heads_of(grad_heads[0]),
                     .grad_keys = mutable_heads_of(grad_heads[1]),
                     .grad_values = mutable_heads_of(grad_heads[2])};
    parallel_tasks(shape.sequences * shape.kv_heads, [&](int64_t begin, int64_t end) {
      const TileUnit unit;
      for (int64_t index = begin; index < end; ++index) attend_backward(shape, b, index / shape.kv_heads, index % shape.kv_heads);
    });
    return {grad_heads[0], grad_heads[1], grad_heads[2], at::Tensor(), at::Tensor()};
  }
};

/// Every sequence begins a document, so that none spans two.
void check_documents(const PackedDocuments& documents, int64_t sequences, int64_t positions) {
  check_shape(documents.tokens() == sequences * positions, "causal_attention: documents of ", documents.tokens(), " tokens for ", sequences,
              " sequences of ", positions);
  const int32_t* const starts = documents.starts.const_data_ptr<int32_t>();
  for (int64_t sequence = 1; sequence < sequences; ++sequence) {
    check_shape(std::binary_search(starts, starts + documents.count(), sequence * positions), "causal_attention: sequence ", sequence,
                " of ", positions, " tokens begins no document");
  }
}

}  // namespace

at::Tensor causal_attention(const AttentionHeads& heads, std::optional<double> scale, const PackedDocuments* documents) {
  check_shape(heads.queries.dim() == 4 && heads.keys.dim() == 4 && heads.values.dim() == 4 && heads.keys.size(2) > 0 &&
                  heads.queries.size(2) % heads.keys.size(2) == 0 &&
                  heads.keys.sizes() ==
                      at::IntArrayRef({heads.queries.size(0), heads.queries.size(1), heads.keys.size(2), heads.queries.size(3)}) &&
                  heads.values.sizes().slice(0, 3) == heads.keys.sizes().slice(0, 3),
              "causal_attention: queries are ", describe(heads.queries), ", keys ", describe(heads.keys), ", values ",
              describe(heads.values), "; needs [B, S, H, d], [B, S, KV, d] and [B, S, KV, v], H a multiple of KV");
  dtype_of(heads.queries);
  for (const at::Tensor& other : {heads.keys, heads.values}) {
    check_shape(other.scalar_type() == heads.queries.scalar_type() && other.device() == heads.queries.device(),
                "causal_attention: queries are ", describe(heads.queries), " on ", heads.queries.device(), ", keys or values ",
                describe(other), " on ", other.device());
  }
  if (documents != nullptr) check_documents(*documents, heads.queries.size(0), heads.queries.size(1));
  const int64_t value_width = heads.values.size(3);
  const int64_t width = std::max(heads.queries.size(3), value_width);
  if (width > heads.queries.size(3) && !scale) scale = 1.0 / std::sqrt(static_cast<double>(heads.queries.size(3)));
  // The kernels have one width for all: zeros add nothing to a score, and their sums are cut off below.
  const auto filled = [width](const at::Tensor& part) {
    return part.size(3) == width ? part : at::constant_pad_nd(part, {0, width - part.size(3)});
  };
  const at::Tensor queries = filled(heads.queries), keys = filled(heads.keys), values = filled(heads.values);
  at::Tensor mixed;  // [B, S, H, width]
  if (has_tile_product(queries) && width % 2 == 0) {
    mixed = TiledAttention::apply(with_packed_heads(queries), with_packed_heads(keys), with_packed_heads(values), scale.value_or(0.0),
                                  documents == nullptr ? std::nullopt : std::optional(documents->positions));
  } else if (documents != nullptr && queries.size(0) > 0) {
    mixed = document_attention({queries, keys, values}, *documents, scale);
  } else {
    const at::Tensor query = queries.transpose(1, 2), key = keys.transpose(1, 2), value = values.transpose(1, 2);  // [B, heads, S, width]
    const bool grouped = queries.size(2) != keys.size(2);
    // The fused kernels divide by the batch; an empty one takes the composed path, whose gradients are the empty tensors that they should be.
    mixed = queries.size(0) == 0 ? std::get<0>(at::_scaled_dot_product_attention_math(query, key, value, {}, 0.0, true, {}, scale, grouped))
                                 : at::scaled_dot_product_attention(query, key, value, {}, 0.0, true, scale, grouped);
    mixed = mixed.transpose(1, 2);
  }
  if (value_width < width) mixed = mixed.narrow(3, 0, value_width);
  // Of one head or one position a part is a view still, which has gaps; kernels that fill up widths themselves cut theirs off likewise.
  return mixed.reshape({queries.size(0), queries.size(1), queries.size(2) * value_width}).contiguous();
}

}  // namespace pimoe
