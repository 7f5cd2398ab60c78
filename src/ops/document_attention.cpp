#include "ops/document_attention.h"

#include "ops/launch.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_attention_math.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <tuple>
#include <vector>

namespace pimoe {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kShort = 128;        // tokens of a document whose attention is one thread's
constexpr int64_t kFlashWidth = 256;   // the widest head that the flash kernels take
constexpr int64_t kAlignedWidth = 8;   // heads are multiples of it for both kernels of GPUs
constexpr int64_t kCausalTopLeft = 1;  // _efficient_attention_forward's custom_mask_type: query i sees keys up to i of its own document

/// [B, S, n, d] as [B S, n, d].
at::Tensor as_tokens(const at::Tensor& heads) { return heads.reshape({heads.size(0) * heads.size(1), heads.size(2), heads.size(3)}); }

/// Documents as stretches of tokens.
struct Stretches {
  explicit Stretches(const at::Tensor& starts) : begins(starts.const_data_ptr<int32_t>()), count(starts.numel() - 1) {}

  int64_t length(int64_t document) const { return begins[document + 1] - begins[document]; }
  at::Tensor tokens_of(const at::Tensor& all, int64_t document) const { return all.narrow(0, begins[document], length(document)); }
  /// @param all [T, heads, d]  @returns [1, heads, tokens of the document, d]
  at::Tensor heads_of(const at::Tensor& all, int64_t document) const { return tokens_of(all, document).transpose(0, 1).unsqueeze(0); }

  /// Calls work(document) for each: long ones one after the other, with all threads in each; short ones side by side.
  template <class Work>
  void for_each(const Work& work) const {
    std::vector<int64_t> brief;
    for (int64_t document = 0; document < count; ++document) {
      if (length(document) <= kShort) {
        brief.push_back(document);
      } else {
        work(document);
      }
    }
    parallel_tasks(static_cast<int64_t>(brief.size()), [&](int64_t begin, int64_t end) {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;  // a thread of the pool does not know that this is inside of a function
      for (int64_t index = begin; index < end; ++index) work(brief[static_cast<size_t>(index)]);
    });
  }

  const int32_t* begins;
  int64_t count;
};

/// On the CPU. Heads are [T, heads, d].
class DocumentAttention : public torch::autograd::Function<DocumentAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& starts, std::optional<double> scale) {
    const Stretches documents(starts);
    const auto options = queries.options().requires_grad(false);
    const at::Tensor result = at::empty(queries.sizes(), options);
    const at::Tensor logsumexp = at::empty({queries.size(0), queries.size(1)}, options.dtype(arithmetic_type(queries)));
    documents.for_each([&](int64_t document) {
      const auto of = [&](const at::Tensor& all) { return documents.heads_of(all, document); };
      const auto [mixed, sums] = at::_scaled_dot_product_flash_attention_for_cpu(of(queries), of(keys), of(values), 0.0, true, {}, scale);
      of(result).copy_(mixed);
      documents.tokens_of(logsumexp, document).copy_(sums.squeeze(0).t());
    });
    context->save_for_backward({queries, keys, values, result, logsumexp, starts});
    context->saved_data["scale"] = scale;
    return result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const Stretches documents(saved[5]);
    const auto scale = context->saved_data["scale"].toOptional<double>();
    variable_list results;
    for (size_t part = 0; part < 3; ++part) results.push_back(at::empty(saved[part].sizes(), saved[part].options().requires_grad(false)));
    documents.for_each([&](int64_t document) {
      const auto of = [&](const at::Tensor& all) { return documents.heads_of(all, document); };
      const at::Tensor sums = documents.tokens_of(saved[4], document).t().unsqueeze(0);
      const auto [query, key, value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          of(grads[0]), of(saved[0]), of(saved[1]), of(saved[2]), of(saved[3]), sums, 0.0, true, {}, scale);
      of(results[0]).copy_(query);
      of(results[1]).copy_(key);
      of(results[2]).copy_(value);
    });
    return {results[0], results[1], results[2], at::Tensor(), at::Tensor()};
  }
};

/// @returns heads [T, n, d] with d filled up by zeros to what the kernels of GPUs take
at::Tensor aligned(const at::Tensor& heads) {
  const int64_t rest = heads.size(2) % kAlignedWidth;
  return rest == 0 ? heads : at::constant_pad_nd(heads, {0, kAlignedWidth - rest});
}

at::Tensor flash_attention(const AttentionHeads& tokens, const PackedDocuments& documents, double scale) {
  return std::get<0>(at::_flash_attention_forward(tokens.queries, tokens.keys, tokens.values, documents.starts_on_device,
                                                  documents.starts_on_device, documents.longest, documents.longest, 0.0,
                                                  /*is_causal=*/true, /*return_debug_mask=*/false, scale));
}

at::Tensor efficient_attention(const AttentionHeads& tokens, const PackedDocuments& documents, double scale) {
  const int64_t sharing = tokens.queries.size(1) / tokens.keys.size(1);
  const auto one_row = [&](const at::Tensor& heads, int64_t repeats) {
    return (repeats == 1 ? heads : heads.repeat_interleave(repeats, 1)).unsqueeze(0);
  };
  return std::get<0>(at::_efficient_attention_forward(one_row(tokens.queries, 1), one_row(tokens.keys, sharing),
                                                      one_row(tokens.values, sharing), /*bias=*/{}, documents.starts_on_device,
                                                      documents.starts_on_device, documents.longest, documents.longest, 0.0, kCausalTopLeft,
                                                      /*compute_log_sumexp=*/true, scale))
      .squeeze(0);
}

at::Tensor composed_attention(const AttentionHeads& tokens, const PackedDocuments& documents, double scale) {
  const Stretches stretches(documents.starts);
  std::vector<int64_t> lengths;
  for (int64_t document = 0; document < stretches.count; ++document) lengths.push_back(stretches.length(document));
  const auto parts = [&](const at::Tensor& heads) { return heads.transpose(0, 1).unsqueeze(0).split_with_sizes(lengths, 2); };
  const std::vector<at::Tensor> queries = parts(tokens.queries), keys = parts(tokens.keys), values = parts(tokens.values);
  const bool grouped = tokens.queries.size(1) != tokens.keys.size(1);
  std::vector<at::Tensor> mixed;
  for (size_t document = 0; document < lengths.size(); ++document) {
    mixed.push_back(std::get<0>(
        at::_scaled_dot_product_attention_math(queries[document], keys[document], values[document], {}, 0.0, true, {}, scale, grouped)));
  }
  return at::cat(mixed, 2).squeeze(0).transpose(0, 1);
}

}  // namespace

at::Tensor document_attention(const AttentionHeads& heads, const PackedDocuments& documents, std::optional<double> scale) {
  const AttentionHeads tokens{as_tokens(heads.queries), as_tokens(heads.keys), as_tokens(heads.values)};
  if (heads.queries.is_cpu()) {
    return DocumentAttention::apply(tokens.queries, tokens.keys, tokens.values, documents.starts, scale).view(heads.queries.sizes());
  }
  const int64_t width = heads.queries.size(3);
  const double of_scores = scale.value_or(1.0 / std::sqrt(static_cast<double>(width)));
  const at::ScalarType dtype = heads.queries.scalar_type();
  if (dtype == at::kDouble || width > kFlashWidth) {
    return composed_attention(tokens, documents, of_scores).reshape(heads.queries.sizes());
  }
  const AttentionHeads filled{aligned(tokens.queries), aligned(tokens.keys), aligned(tokens.values)};
  const at::Tensor mixed =
      dtype == at::kFloat ? efficient_attention(filled, documents, of_scores) : flash_attention(filled, documents, of_scores);
  return mixed.narrow(2, 0, width).reshape(heads.queries.sizes());
}

}  // namespace pimoe
