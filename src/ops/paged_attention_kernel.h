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

/// What GPUs read of the tokens and write: as PagedAttentionArguments, with strides in numbers.
struct PagedGpuArguments {
  Dtype dtype;
  int64_t heads, kv_heads, width, value_width, page_tokens;
  double scale;
  int64_t tokens;                ///< T
  int64_t runs, most_of_run;     ///< R, and tokens of one at most
  int64_t table_width, longest;  ///< M, and positions of a sequence at most
  const int32_t* slots;          ///< [T] page * G + position in it
  const int32_t* run_table;      ///< [R, 4] first token, its position, tokens, row of `pages`
  const int32_t* pages;          ///< [P, M]
  const void* queries;           ///< [T, H, d]
  int64_t query_stride;
  void* keys;                                                            ///< [N, KV, d, G]
  void* values;                                                          ///< [N, KV, G, v]
  const void* new_keys;                                                  ///< [T, KV, d]; of keep_in_pages
  const void* new_values;                                                ///< [T, KV, v]
  int64_t key_stride, key_head_stride, value_stride, value_head_stride;  ///< from token to token, and from head to head
  void* output;                                                          ///< [T, H, v]
  /// [S, T, H, v] and [S, T, H, 2] in the arithmetic type, S = paged_splits(longest): sums of a split, their largest score and share. Null where S is 1.
  void* sums;
  void* shares;
};

/// Positions that one block of a GPU takes. Fixed, so that a token's numbers do not go by what is computed beside it.
constexpr int64_t kPagedSplit = 512;
constexpr int64_t paged_splits(int64_t positions) { return (positions + kPagedSplit - 1) / kPagedSplit; }

namespace cpu {

/// begin, end count (run, head of keys)s, heads inside. @param scratch  room for (tokens of a run) (H / KV) (d + positions of whole pages + v) sums
void paged_attention(const PagedAttentionArguments& arguments, void* scratch, int64_t begin, int64_t end);

}  // namespace cpu

namespace cuda {

void keep_in_pages(const PagedGpuArguments& arguments);
/// Whether paged_attention has room for heads of that width.
bool has_paged_attention(Dtype dtype, int64_t width, int64_t value_width);
/// Writes the rows of tokens that are in runs.
void paged_attention(const PagedGpuArguments& arguments);

}  // namespace cuda
}  // namespace pimoe
