#include "ops/cached_attention.h"

#include "ops/launch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <optional>

namespace pimoe {

at::Tensor cached_attention(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                            const std::vector<int64_t>& sequences, const std::vector<int64_t>& lengths, std::optional<double> scale) {
  const auto count = static_cast<int64_t>(sequences.size());
  check_shape(queries.dim() == 3 && queries.size(0) == count && lengths.size() == sequences.size(), "cached_attention: queries ",
              describe(queries), " of ", count, " sequences with ", lengths.size(), " lengths; needs [B, H, d] and B of each");
  check_shape(keys.dim() == 4 && values.dim() == 4 && keys.sizes().slice(0, 3) == values.sizes().slice(0, 3) &&
                  keys.size(3) == queries.size(2) && keys.size(2) > 0 && queries.size(1) % keys.size(2) == 0,
              "cached_attention: keys ", describe(keys), ", values ", describe(values),
              "; needs [C, S, KV, d] and [C, S, KV, v] for queries ", describe(queries));
  if (count == 0) return queries.new_empty({0, queries.size(1) * values.size(3)});
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const int64_t shortest = *std::min_element(lengths.begin(), lengths.end());
  bool neighbours = true;
  for (int64_t at = 0; at < count; ++at) {
    const int64_t sequence = sequences[static_cast<size_t>(at)];
    check_shape(sequence >= 0 && sequence < keys.size(0) && shortest >= 1 && longest <= keys.size(1), "cached_attention: sequence ",
                sequence, ", lengths ", shortest, " to ", longest, ", beyond keys ", describe(keys));
    neighbours = neighbours && sequence == sequences[0] + at;
  }
  const auto to_device = [&](const std::vector<int64_t>& numbers) { return at::tensor(numbers, at::kLong).to(queries.device()); };
  const at::Tensor rows = neighbours ? at::Tensor() : to_device(sequences);
  const auto seen = [&](const at::Tensor& kept) {  // [B, KV, longest, d]
    const at::Tensor of_all = kept.narrow(1, 0, longest);
    return (neighbours ? of_all.narrow(0, sequences[0], count) : of_all.index_select(0, rows)).transpose(1, 2);
  };
  std::optional<at::Tensor> visible;
  if (shortest < longest) {
    const at::Tensor positions = at::arange(longest, queries.options().dtype(at::kLong));
    visible = (positions.unsqueeze(0) < to_device(lengths).unsqueeze(1)).view({count, 1, 1, longest});
  }
  // The queries that share a head of keys stand where positions would: nothing of the keys is repeated for them.
  const int64_t kv_heads = keys.size(2);
  const at::Tensor grouped = queries.reshape({count, kv_heads, queries.size(1) / kv_heads, queries.size(2)});
  const at::Tensor mixed = at::scaled_dot_product_attention(grouped, seen(keys), seen(values), visible, 0.0, false, scale);
  return mixed.reshape({count, queries.size(1) * values.size(3)});
}

}  // namespace pimoe
