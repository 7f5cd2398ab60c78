#include "ops/cross_entropy.h"

#include "ops/gradient_sink.h"
#include "ops/launch.h"
#include "ops/tile_kernels.h"
#include "ops/tile_product.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LossAndGradients {
  at::Tensor loss;         ///< scalar, arithmetic type
  at::Tensor grad_hidden;  ///< [T, D] in hidden's dtype; undefined when not wanted
  at::Tensor grad_weight;  ///< [V, D] in the arithmetic type; undefined when not wanted
};

bool is_reduced(const at::Tensor& tensor) { return tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf; }

/// @returns hidden weight^T: in float32 on a GPU, whose units add in it anyway; on the CPU no product of ours widens, so in hidden's dtype.
at::Tensor logits_of(const at::Tensor& hidden, const at::Tensor& weight) {
  return hidden.is_cuda() && is_reduced(hidden) ? at::mm(hidden, weight.t(), at::kFloat) : at::mm(hidden, weight.t());
}

/// sum += grad_logits^T hidden, in the sum's dtype.
void add_weight_gradient(at::Tensor& sum, const at::Tensor& grad_logits, const at::Tensor& hidden) {
  if (!is_reduced(hidden)) {
    at::addmm_out(sum, sum, grad_logits.t(), hidden);
  } else if (hidden.is_cuda()) {
    at::addmm_out(sum, sum, grad_logits.t(), hidden, at::kFloat);
  } else {
    add_to_sum(sum, at::mm(grad_logits.t(), hidden));
  }
}

/// @returns bytes of a logit, as logits_of makes it
int64_t logit_bytes(int64_t element, bool on_gpu) { return on_gpu ? std::max<int64_t>(4, element) : element; }

/// @returns positions at a time: logits of 64 MiB on the CPU, 1 GiB on a GPU, at least one position.
int64_t chunk_positions(int64_t vocabulary, int64_t element, bool on_gpu) {
  const int64_t bytes = on_gpu ? int64_t{1} << 30 : int64_t{64} << 20;
  return std::max<int64_t>(1, bytes / std::max<int64_t>(1, vocabulary * logit_bytes(element, on_gpu)));
}

/// In bfloat16 on the CPU by tiles: a tile's logits go from the product to their gradients, and on to that of hidden, in the caches.
bool goes_by_tiles(const at::Tensor& hidden, const at::Tensor& weight) {
  return has_tile_product(hidden) && hidden.size(1) % 2 == 0 && weight.size(0) % 2 == 0 && weight.numel() > 0;
}

/// Positions [begin, begin + count): their losses, and gradients where `result` has room for them.
/// @param by_hidden, by_logits  weight packed for the product with hidden, and with the logits' gradients
void compute_by_tiles(const at::Tensor& hidden, const at::Tensor& targets, const at::Tensor& by_hidden, const at::Tensor& by_logits,
                      int64_t begin, int64_t count, const at::Tensor& losses, LossAndGradients& result) {
  const int64_t width = hidden.size(1);
  const int64_t vocabulary = by_hidden.size(2);
  const std::vector<int32_t> ends = {static_cast<int32_t>(count)};
  const auto* const rows = bits_of(hidden) + begin * width;
  const bool want_gradients = result.grad_hidden.defined() || result.grad_weight.defined();
  std::optional<PairedRows> grads;
  if (result.grad_weight.defined()) grads.emplace(ends, vocabulary, hidden.options());
  const std::vector<RowTile> tiles = row_tiles(ends);
  parallel_tasks(static_cast<int64_t>(tiles.size()), [&](int64_t first, int64_t last) {
    const TileUnit unit;
    const TileRoom<uint16_t> tile_rows(kTileRows * width), tile_grads(kTileRows * vocabulary);
    const TileRoom<float> logits(kTileRows * vocabulary), sums(kTileRows * width);
    for (int64_t index = first; index < last; ++index) {
      const RowTile& tile = tiles[static_cast<size_t>(index)];
      const int64_t padded = rounded_up(tile.count, kRowStep);
      TileSource{rows, width}.load(tile, tile_rows.data());
      multiply_tile(padded, tile_rows.data(), width, right_matrix(by_hidden, 0), {0, vocabulary, 0, width}, logits.data(), vocabulary,
                    false);
      const int64_t position = begin + tile.begin;
      cpu::cross_entropy_tile(logits.data(), tile.count, vocabulary, targets.const_data_ptr<int64_t>() + position,
                              losses.mutable_data_ptr<float>() + position, want_gradients ? tile_grads.data() : nullptr);
      if (grads) grads->put(0, tile.begin, tile.count, tile_grads.data(), vocabulary, 0, vocabulary);
      if (!result.grad_hidden.defined()) continue;
      std::fill(tile_grads.data() + tile.count * vocabulary, tile_grads.data() + padded * vocabulary, uint16_t{0});
      multiply_tile(padded, tile_grads.data(), vocabulary, right_matrix(by_logits, 0), {0, width, 0, vocabulary}, sums.data(), width,
                    false);
      cpu::narrow_rows(sums.data(), width, tile.count, width, mutable_bits_of(result.grad_hidden) + position * width, width);
    }
  });
  if (grads) add_to_sum(result.grad_weight, multiply_paired_rows({rows, width}, *grads, /*turned=*/true)[0]);
}

LossAndGradients compute(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, bool want_hidden,
                         bool want_weight) {
  const int64_t positions = hidden.size(0);
  const int64_t vocabulary = weight.size(0);
  const auto sums = hidden.options().dtype(arithmetic_type(hidden)).requires_grad(false);
  const bool want_logits = want_hidden || want_weight;

  const at::Tensor losses = at::empty({positions}, sums);
  LossAndGradients result;
  if (want_hidden) result.grad_hidden = at::empty(hidden.sizes(), hidden.options().requires_grad(false));
  if (want_weight) result.grad_weight = at::zeros(weight.sizes(), sums);

  const int64_t chunk = chunk_positions(vocabulary, hidden.element_size(), hidden.is_cuda());
  const bool by_tiles = goes_by_tiles(hidden, weight);
  at::Tensor by_hidden, by_logits;  // weight packed for either product
  if (by_tiles) by_hidden = packed_matrices(weight.detach().t().unsqueeze(0));
  if (by_tiles && want_hidden) by_logits = packed_matrices(weight.detach().unsqueeze(0));
  for (int64_t begin = 0; begin < positions; begin += chunk) {
    const int64_t count = std::min(chunk, positions - begin);
    if (by_tiles) {
      compute_by_tiles(hidden, targets, by_hidden, by_logits, begin, count, losses, result);
      continue;
    }
    const at::Tensor part = hidden.narrow(0, begin, count);
    at::Tensor logits = logits_of(part, weight);
    at::Tensor grad_logits;
    if (want_logits) grad_logits = logits.scalar_type() == hidden.scalar_type() ? logits : at::empty(logits.sizes(), part.options());
    CrossEntropyArguments arguments{};
    arguments.dtype = dtype_of(hidden);
    arguments.vocabulary = vocabulary;
    arguments.logits = logits.const_data_ptr();
    arguments.targets = targets.const_data_ptr<int64_t>() + begin;
    arguments.losses = static_cast<char*>(losses.mutable_data_ptr()) + begin * losses.element_size();
    arguments.grad_logits = want_logits ? grad_logits.mutable_data_ptr() : nullptr;
    launch(
        hidden, count, 4 * vocabulary * logits.element_size(),
        [&](int64_t first, int64_t last) { cpu::cross_entropy(arguments, first, last); }, [&] { cuda::cross_entropy(arguments, count); });
    if (want_hidden) {
      at::Tensor out = result.grad_hidden.narrow(0, begin, count);
      at::mm_out(out, grad_logits, weight);
    }
    if (want_weight) add_weight_gradient(result.grad_weight, grad_logits, part);
  }
  // float64, so that the order in which threads add shows nowhere.
  result.loss = at::sum(losses, at::kDouble).to(losses.scalar_type());
  return result;
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
    LossAndGradients result = compute(hidden, weight, targets, hidden.requires_grad(), weight.requires_grad());
    context->save_for_backward({result.grad_hidden, result.grad_weight, weight});
    context->saved_data["dtype"] = static_cast<int64_t>(hidden.scalar_type());
    return result.loss;
  }

  /// Out of place, so that a graph which is kept can be gone through again.
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto dtype = static_cast<at::ScalarType>(context->saved_data["dtype"].toInt());
    const variable_list saved = context->get_saved_variables();
    at::Tensor grad_hidden, grad_weight;
    if (saved[0].defined() && context->needs_input_grad(0)) grad_hidden = at::mul(saved[0], grads[0]).to(dtype);
    if (saved[1].defined() && context->needs_input_grad(1)) {
      if (GradientSink* const sink = gradient_sink_of(saved[2])) {
        GradientSink::Room room = sink->begin();
        room.adds ? room.sum.addcmul_(saved[1], grads[0]) : at::mul_out(room.sum, saved[1], grads[0]);
        sink->end();
      } else {
        grad_weight = at::mul(saved[1], grads[0]).to(dtype);
      }
    }
    return {grad_hidden, grad_weight, at::Tensor()};
  }
};

}  // namespace

CrossEntropyBytes linear_cross_entropy_bytes(int64_t positions, int64_t width, int64_t vocabulary, int64_t element, int64_t wide,
                                             bool on_gpu, int64_t threads) {
  const int64_t logits = std::min(positions, chunk_positions(vocabulary, element, on_gpu)) * vocabulary;
  CrossEntropyBytes bytes;
  bytes.kept = positions * width * element + vocabulary * width * wide;
  bytes.forward = logits * logit_bytes(element, on_gpu) + positions * wide;
  if (logit_bytes(element, on_gpu) != element) bytes.forward += logits * element;  // their gradients, in hidden's dtype
  if (!on_gpu && element < wide) bytes.forward += vocabulary * width * element;    // a chunk's gradient of the weight
  if (!on_gpu && element == 2 && has_tile_product()) {  // the weight packed twice, and each thread's tile of logits and of their gradients
    bytes.forward += 2 * vocabulary * width * element + threads * kTileRows * vocabulary * (wide + element);
  }
  bytes.backward = positions * width * element;  // the weight's goes to its sum
  return bytes;
}

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
  check_shape(
      hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1) && targets.dim() == 1 && targets.size(0) == hidden.size(0),
      "linear_cross_entropy: hidden ", describe(hidden), ", weight ", describe(weight), ", targets ", describe(targets),
      "; needs [T, D], [V, D], [T]");
  dtype_of(hidden);
  check_operand("hidden", hidden, hidden.scalar_type(), hidden);
  check_operand("weight", weight, hidden.scalar_type(), hidden);
  check_operand("targets", targets, at::kLong, hidden);
  if (targets.is_cpu()) {
    const int64_t* target = targets.const_data_ptr<int64_t>();
    for (int64_t position = 0; position < targets.numel(); ++position) {
      check_shape(-1 <= target[position] && target[position] < weight.size(0), "linear_cross_entropy: targets[", position, "] (",
                  target[position], ") must be in [-1, ", weight.size(0), ")");
    }
  }
  if (at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad())) {
    return LinearCrossEntropy::apply(hidden, weight, targets);
  }
  const at::NoGradGuard no_grad;
  return compute(hidden, weight, targets, false, false).loss;
}

}  // namespace pimoe
