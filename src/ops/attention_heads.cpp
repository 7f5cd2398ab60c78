#include "ops/attention_heads.h"

#include "ops/head_rows.h"
#include "ops/launch.h"

#include <ATen/ops/split_with_sizes.h>

namespace pimoe {

AttentionHeads AttentionHeads::split(const at::Tensor& heads, int64_t queries, int64_t kv_heads) {
  check_shape(heads.dim() == 4 && queries >= 0 && kv_heads >= 0 && heads.size(2) == queries + 2 * kv_heads,
              "attention heads: ", describe(heads), ", needs [B, S, H + 2 KV, d] with H = ", queries, ", KV = ", kv_heads);
  const std::vector<at::Tensor> parts = heads.split_with_sizes({queries, kv_heads, kv_heads}, 2);
  return {parts[0], parts[1], parts[2]};
}

at::Tensor with_packed_heads(const at::Tensor& heads) {
  const bool packed = heads.stride(3) == 1 && (heads.size(2) <= 1 || heads.stride(2) == heads.size(3));
  return packed ? heads : heads.contiguous();
}

HeadRows head_rows(const at::Tensor& heads) {
  if (heads.numel() == 0) return {};  // no data to count strides from
  return {heads.const_data_ptr(), heads.stride(0), heads.stride(1)};
}

}  // namespace pimoe
