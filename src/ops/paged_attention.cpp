#include "ops/paged_attention.h"

#include "ops/launch.h"
#include "ops/paged_attention_kernel.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_put.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <utility>

namespace pimoe {
namespace {

at::Tensor on_device(const std::vector<int64_t>& numbers, c10::Device device) { return at::tensor(numbers, at::kLong).to(device); }

int64_t pages_for(int64_t positions, int64_t page_tokens) { return (positions + page_tokens - 1) / page_tokens; }

void check_pages(const KeyValuePages& kept, const PagedTokens& tokens) {
  check_shape(kept.keys.dim() == 4 && kept.values.dim() == 4 && kept.keys.size(0) == tokens.pages && kept.values.size(0) == tokens.pages &&
                  kept.keys.size(1) == kept.values.size(1) && kept.keys.size(3) == tokens.page_tokens &&
                  kept.values.size(2) == tokens.page_tokens && kept.keys.size(1) > 0 && kept.keys.is_contiguous() &&
                  kept.values.is_contiguous() && kept.keys.scalar_type() == kept.values.scalar_type(),
              "paged attention: keys ", describe(kept.keys), ", values ", describe(kept.values),
              "; needs [N, KV, d, G] and [N, KV, G, v], N = ", tokens.pages, ", G = ", tokens.page_tokens);
}

/// Of parts with at most kPagedRun tokens there are runs.
PagedTableSizes table_sizes(const std::vector<PagedPart>& parts) {
  PagedTableSizes sizes{.parts = static_cast<int64_t>(parts.size())};
  for (const PagedPart& part : parts) {
    sizes.width = std::max(sizes.width, static_cast<int64_t>(part.pages.size()));
    sizes.tokens += part.count;
    if (part.count > kPagedRun) continue;
    ++sizes.runs;
    sizes.longest = std::max(sizes.longest, part.first + part.count);
  }
  return sizes;
}

PagedGpuArguments gpu_arguments(const KeyValuePages& kept, const PagedTokens& tokens) {
  PagedGpuArguments a{};
  a.dtype = dtype_of(kept.keys);
  a.kv_heads = kept.keys.size(1);
  a.width = kept.keys.size(2);
  a.value_width = kept.values.size(3);
  a.page_tokens = tokens.page_tokens;
  a.tokens = tokens.count;
  a.runs = tokens.tables.runs.size(0);
  a.table_width = tokens.tables.pages.size(1);
  a.longest = tokens.tables.longest;
  a.slots = tokens.tables.slots.const_data_ptr<int32_t>();
  a.run_table = tokens.tables.runs.const_data_ptr<int32_t>();
  a.pages = tokens.tables.pages.const_data_ptr<int32_t>();
  a.keys = kept.keys.mutable_data_ptr();
  a.values = kept.values.mutable_data_ptr();
  return a;
}

void paged_attention_of_runs(const at::Tensor& queries, const KeyValuePages& kept, const PagedTokens& tokens, double scale,
                             const at::Tensor& output) {
  PagedGpuArguments a = gpu_arguments(kept, tokens);
  a.heads = queries.size(1);
  a.scale = scale;
  a.most_of_run = 1;
  for (const PagedPart& part : tokens.parts) {
    if (part.count <= kPagedRun) a.most_of_run = std::max(a.most_of_run, part.count);
  }
  a.queries = queries.const_data_ptr();
  a.query_stride = queries.stride(0);
  a.output = output.mutable_data_ptr();
  const int64_t splits = paged_splits(a.longest);
  at::Tensor sums, shares;
  if (splits > 1) {
    const auto options = queries.options().dtype(arithmetic_type(queries));
    sums = at::empty({splits, a.tokens, a.heads, a.value_width}, options);
    shares = at::empty({splits, a.tokens, a.heads, 2}, options);
    a.sums = sums.mutable_data_ptr();
    a.shares = shares.mutable_data_ptr();
  }
  launch(
      queries, a.runs, 0, [](int64_t /*begin*/, int64_t /*end*/) {}, [&] { cuda::paged_attention(a); });
}

void compose_paged_attention(const at::Tensor& queries, const KeyValuePages& kept, const std::vector<PagedTokens::Batch>& batches,
                             double scale, at::Tensor& mixed) {
  const int64_t heads = queries.size(1), kv_heads = kept.keys.size(1), width = queries.size(2), value_width = kept.values.size(3);
  const int64_t group = heads / kv_heads;
  for (const PagedTokens::Batch& batch : batches) {
    const int64_t columns = batch.visible.size(3);
    // The queries that share a head of keys stand beside the positions: nothing of the keys is repeated for them.
    const at::Tensor asked = queries.index_select(0, batch.rows)
                                 .view({batch.parts, batch.count, kv_heads, group, width})
                                 .permute({0, 2, 1, 3, 4})
                                 .reshape({batch.parts, kv_heads, batch.count * group, width});
    const at::Tensor keys = kept.keys.index_select(0, batch.table)
                                .view({batch.parts, -1, kv_heads, width, kept.keys.size(3)})
                                .permute({0, 2, 1, 4, 3})
                                .reshape({batch.parts, kv_heads, columns, width});
    const at::Tensor values = kept.values.index_select(0, batch.table)
                                  .view({batch.parts, -1, kv_heads, kept.values.size(2), value_width})
                                  .transpose(1, 2)
                                  .reshape({batch.parts, kv_heads, columns, value_width});
    const at::Tensor visible = batch.visible.unsqueeze(3)
                                   .expand({batch.parts, 1, batch.count, group, columns})
                                   .reshape({batch.parts, 1, batch.count * group, columns});
    const at::Tensor part = at::scaled_dot_product_attention(asked, keys, values, visible, 0.0, false, scale)
                                .view({batch.parts, kv_heads, batch.count, group, value_width})
                                .permute({0, 2, 1, 3, 4})
                                .reshape({batch.parts * batch.count, heads * value_width});
    mixed.index_copy_(0, batch.rows, part);
  }
}

at::Tensor paged_attention_on_host(const at::Tensor& queries, const KeyValuePages& kept, const PagedTokens& tokens, double scale) {
  const int64_t heads = queries.size(1), width = queries.size(2), kv_heads = kept.keys.size(1), value_width = kept.values.size(3);
  std::vector<PagedRun> runs;
  int64_t row = 0, most = 0, longest = 0;
  for (const PagedPart& part : tokens.parts) {
    for (int64_t at = 0; at < part.count; at += kPagedRun) {
      const int64_t count = std::min(kPagedRun, part.count - at);
      runs.push_back({part.pages.data(), row + at, part.first + at, count});
      most = std::max(most, count);
    }
    row += part.count;
    longest = std::max(longest, part.first + part.count);
  }
  const at::Tensor mixed = at::empty({tokens.count, heads * value_width}, queries.options());
  const PagedAttentionArguments arguments{.dtype = dtype_of(queries),
                                          .heads = heads,
                                          .kv_heads = kv_heads,
                                          .width = width,
                                          .value_width = value_width,
                                          .page_tokens = tokens.page_tokens,
                                          .scale = scale,
                                          .queries = queries.const_data_ptr(),
                                          .query_stride = queries.stride(0),
                                          .keys = kept.keys.const_data_ptr(),
                                          .values = kept.values.const_data_ptr(),
                                          .runs = runs.data(),
                                          .output = mixed.mutable_data_ptr()};
  const int64_t of_run = most * (heads / kv_heads);
  const int64_t columns = pages_for(longest, tokens.page_tokens) * tokens.page_tokens;
  const auto numbers = static_cast<size_t>(of_run * (width + columns + value_width));
  parallel_tasks(static_cast<int64_t>(runs.size()) * kv_heads, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<double[]> scratch(new double[numbers]);  // as much as any dtype's sums take
    cpu::paged_attention(arguments, scratch.get(), begin, end);
  });
  return mixed;
}

}  // namespace

PagedTokens::PagedTokens(std::vector<PagedPart> of_sequences, int64_t all_pages, int64_t of_page, c10::Device device)
    : parts(std::move(of_sequences)), pages(all_pages), page_tokens(of_page) {
  std::vector<int64_t> at_pages, at_offsets;
  for (const PagedPart& part : parts) {
    check_shape(part.first >= 0 && part.count >= 1 && page_tokens >= 1 &&
                    static_cast<int64_t>(part.pages.size()) >= pages_for(part.first + part.count, page_tokens),
                "paged tokens: ", part.count, " from position ", part.first, " on, with ", part.pages.size(), " pages of ", page_tokens);
    for (const int64_t page : part.pages) check_shape(page >= 0 && page < pages, "paged tokens: page ", page, " of ", pages);
    for (int64_t position = part.first; position < part.first + part.count; ++position) {
      at_pages.push_back(part.pages[static_cast<size_t>(position / page_tokens)]);
      at_offsets.push_back(position % page_tokens);
    }
    count += part.count;
  }
  if (device.is_cpu()) {
    page_of_token = at::tensor(at_pages, at::kLong);
    offset_of_token = at::tensor(at_offsets, at::kLong);
    return;
  }
  check_shape(pages * page_tokens <= std::numeric_limits<int32_t>::max(), "paged tokens: ", pages, " pages of ", page_tokens,
              " positions; needs at most 2^31 - 1 positions");
  const PagedTableSizes sizes = table_sizes(parts);
  std::vector<int32_t> numbers;
  numbers.reserve(static_cast<size_t>(sizes.numbers()));
  append_tables(parts, page_tokens, sizes.width, numbers);
  tables = tables_in(at::tensor(numbers, at::kInt).to(device), sizes);
  batches = batches_of(parts, page_tokens, device, kPagedRun);
}

PagedTokens::PagedTokens(PagedTables of_tokens, int64_t all_pages, int64_t of_page)
    : pages(all_pages), page_tokens(of_page), count(of_tokens.slots.size(0)), tables(std::move(of_tokens)) {}

PagedTables tables_in(const at::Tensor& numbers, const PagedTableSizes& sizes) {
  const int64_t of_runs = PagedTableSizes::kNumbersOfRun * sizes.runs, of_pages = sizes.parts * sizes.width;
  return {.runs = numbers.narrow(0, 0, of_runs).view({sizes.runs, PagedTableSizes::kNumbersOfRun}),
          .slots = numbers.narrow(0, of_runs + of_pages, sizes.tokens),
          .pages = numbers.narrow(0, of_runs, of_pages).view({sizes.parts, sizes.width}),
          .longest = sizes.longest};
}

std::vector<PagedTokens::Batch> batches_of(const std::vector<PagedPart>& parts, int64_t page_tokens, c10::Device device, int64_t above) {
  struct Members {
    std::vector<const PagedPart*> parts;
    std::vector<int64_t> rows, firsts;
  };
  std::map<int64_t, Members> by_count;
  int64_t row = 0;
  for (const PagedPart& part : parts) {
    if (part.count <= above) {
      row += part.count;
      continue;
    }
    Members& members = by_count[part.count];
    members.parts.push_back(&part);
    members.firsts.push_back(part.first);
    for (int64_t at = 0; at < part.count; ++at) members.rows.push_back(row++);
  }
  std::vector<PagedTokens::Batch> batches;
  for (const auto& [count, members] : by_count) {
    const int64_t last = *std::max_element(members.firsts.begin(), members.firsts.end()) + count;
    const int64_t width = pages_for(last, page_tokens);
    std::vector<int64_t> table;
    for (const PagedPart* part : members.parts) {
      for (int64_t at = 0; at < width; ++at) {
        table.push_back(at < static_cast<int64_t>(part->pages.size()) ? part->pages[static_cast<size_t>(at)] : part->pages[0]);
      }
    }
    PagedTokens::Batch batch;
    batch.parts = static_cast<int64_t>(members.parts.size());
    batch.count = count;
    batch.rows = on_device(members.rows, device);
    batch.table = on_device(table, device);
    const auto options = at::TensorOptions().dtype(at::kLong).device(device);
    const at::Tensor own = on_device(members.firsts, device).view({-1, 1, 1, 1}) + at::arange(count, options).view({1, 1, -1, 1});
    batch.visible = at::arange(width * page_tokens, options).view({1, 1, 1, -1}) <= own;
    batches.push_back(std::move(batch));
  }
  return batches;
}

void keep_in_pages(const KeyValuePages& kept, const at::Tensor& keys, const at::Tensor& values, const PagedTokens& tokens) {
  check_pages(kept, tokens);
  check_shape(keys.dim() == 3 && values.dim() == 3 && keys.size(0) == tokens.count && values.size(0) == tokens.count &&
                  keys.size(1) == kept.keys.size(1) && values.size(1) == kept.keys.size(1) && keys.size(2) == kept.keys.size(2) &&
                  values.size(2) == kept.values.size(3) && keys.scalar_type() == kept.keys.scalar_type() &&
                  values.scalar_type() == kept.keys.scalar_type(),
              "keep_in_pages: keys ", describe(keys), ", values ", describe(values), " of ", tokens.count, " tokens for ",
              describe(kept.keys), " and ", describe(kept.values));
  if (!keys.is_cpu()) {
    check_shape((keys.stride(2) == 1 || keys.size(2) == 1) && (values.stride(2) == 1 || values.size(2) == 1),
                "keep_in_pages: keys and values must be dense in their last dimension");
    PagedGpuArguments a = gpu_arguments(kept, tokens);
    a.new_keys = keys.const_data_ptr();
    a.new_values = values.const_data_ptr();
    a.key_stride = keys.stride(0);
    a.key_head_stride = keys.stride(1);
    a.value_stride = values.stride(0);
    a.value_head_stride = values.stride(1);
    launch(
        keys, tokens.count, 0, [](int64_t /*begin*/, int64_t /*end*/) {}, [&] { cuda::keep_in_pages(a); });
    return;
  }
  const std::optional<at::Tensor> pages = tokens.page_of_token, offsets = tokens.offset_of_token;
  at::Tensor by_position = kept.keys.permute({0, 3, 1, 2});
  by_position.index_put_({pages, offsets}, keys);
  by_position = kept.values.permute({0, 2, 1, 3});
  by_position.index_put_({pages, offsets}, values);
}

at::Tensor composed_paged_attention(const at::Tensor& queries, const KeyValuePages& kept, const std::vector<PagedTokens::Batch>& batches,
                                    double scale) {
  at::Tensor mixed = at::empty({queries.size(0), queries.size(1) * kept.values.size(3)}, queries.options());
  compose_paged_attention(queries, kept, batches, scale, mixed);
  return mixed;
}

bool has_paged_kernel([[maybe_unused]] at::ScalarType dtype, [[maybe_unused]] int64_t width, [[maybe_unused]] int64_t value_width) {
  if constexpr (kCudaBuild) return cuda::has_paged_attention(dtype_of(at::empty({0}, dtype)), width, value_width);
  return false;
}

at::Tensor paged_attention(const at::Tensor& queries, const KeyValuePages& kept, const PagedTokens& tokens, std::optional<double> scale) {
  check_pages(kept, tokens);
  const int64_t kv_heads = kept.keys.size(1), width = kept.keys.size(2), value_width = kept.values.size(3);
  check_shape(queries.dim() == 3 && queries.size(0) == tokens.count && queries.size(2) == width && queries.size(1) % kv_heads == 0 &&
                  queries.scalar_type() == kept.keys.scalar_type() && queries.stride(2) == 1 && queries.stride(1) == width,
              "paged_attention: queries ", describe(queries), " of ", tokens.count, " tokens for keys ", describe(kept.keys),
              "; needs [T, H, d], H a multiple of KV, dense in the last two");
  const int64_t heads = queries.size(1);
  const double factor = scale.value_or(1.0 / std::sqrt(static_cast<double>(width)));
  if (tokens.count == 0) return queries.new_empty({0, heads * value_width});
  if (queries.is_cpu()) return paged_attention_on_host(queries, kept, tokens, factor);
  at::Tensor mixed = at::empty({tokens.count, heads * value_width}, queries.options());
  if (has_paged_kernel(queries.scalar_type(), width, value_width)) {
    paged_attention_of_runs(queries, kept, tokens, factor, mixed);
    compose_paged_attention(queries, kept, tokens.batches, factor, mixed);
  } else {
    compose_paged_attention(queries, kept, batches_of(tokens.parts, tokens.page_tokens, queries.device()), factor, mixed);
  }
  return mixed;
}

}  // namespace pimoe
