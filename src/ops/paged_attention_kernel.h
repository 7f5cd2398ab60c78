#pragma once

/// The kernel behind paged_attention.h. Seen by ops/paged_attention*.cpp alone; kernels.h says by which rules.

#include "ops/kernels.h"

namespace pimoe {

/// Tokens of one sequence that read its keys and values together.
struct PagedRun {
  const int64_t* pages;  ///< of the sequence
  int64_t row;           ///< of the first token
  int64_t first;         ///< its position
  int64_t count;
};

struct PagedAttentionArguments {
  Dtype dtype;
  int64_t heads, kv_heads, width, value_width, page_tokens;  ///< H, KV, d, v, G
  double scale;
  const void* queries;   ///< [T, H, d]
  int64_t query_stride;  ///< numbers from token to token
  const void* keys;      ///< [N, KV, d, G]
  const void* values;    ///< [N, KV, G, v]
  const PagedRun* runs;
  void* output;  ///< [T, H, v]
};

namespace cpu {

/// begin, end count (run, head of keys)s, heads inside. @param scratch  room for (tokens of a run) (H / KV) (d + positions of whole pages + v) sums
void paged_attention(const PagedAttentionArguments& arguments, void* scratch, int64_t begin, int64_t end);

}  // namespace cpu
}  // namespace pimoe
