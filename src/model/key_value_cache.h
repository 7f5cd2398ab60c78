#pragma once

#include "model/model_config.h"
#include "ops/paged_attention.h"

#include <ATen/core/Tensor.h>

#include <vector>

namespace pimoe {

struct RotaryTable;

/// Keys, turned by their positions' angles, and values of every layer, so that a token is computed once, when it comes, and not again with each token
/// after it. They lie in pages of a few positions, which whoever calls deals out to sequences; a page may serve several that begin equally.
/// Of latent attention they are kept as attention sees them, expanded: KV is H, a key n + r numbers, a value v.
///
///     N pages * G positions * layers * KV (d + v) numbers
struct KeyValueCache {
  static constexpr int64_t kPageTokens = 16;  ///< a vector register's numbers in float32

  /// @param pages  N  @param dtype  the model's  @param page_tokens  G
  KeyValueCache(const ModelConfig& config, at::ScalarType dtype, c10::Device device, int64_t pages, int64_t page_tokens = kPageTokens);
  /// @returns bytes of one page in all layers
  static int64_t bytes_of_page(const ModelConfig& config, at::ScalarType dtype, int64_t page_tokens = kPageTokens);
  /// @returns pages that hold so many positions
  static int64_t pages_for(int64_t positions, int64_t page_tokens = kPageTokens) { return (positions + page_tokens - 1) / page_tokens; }

  int64_t pages, page_tokens;
  std::vector<KeyValuePages> layers;
};

/// What one forward pass adds to one sequence: `count` tokens from position `first` on, where all before them are kept already.
struct CachedPart : PagedPart {
  int64_t scored = 1;  ///< of its last tokens, whose scores are asked for
};

/// The tokens of one forward pass, part after part, and what attention has to know of them.
struct CachedTokens {
  /// @throws ShapeError for parts that do not fit the table's positions or the cache's pages, or of which more is asked than they have
  CachedTokens(const std::vector<CachedPart>& parts, const KeyValueCache& cache, const RotaryTable& table, c10::Device device);
  /// One token of each of T sequences, all of them scored. @param positions [T] integers on the device
  CachedTokens(PagedTables tables, const at::Tensor& positions, const KeyValueCache& cache, const RotaryTable& table);

  PagedTokens paged;
  at::Tensor cosine;  ///< [T, d/2] of each token's position
  at::Tensor sine;
  at::Tensor scored;  ///< [Q] int64: tokens whose scores are asked for, in order; undefined: all
};

}  // namespace pimoe
