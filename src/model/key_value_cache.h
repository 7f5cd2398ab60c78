#pragma once

#include "model/model_config.h"

#include <ATen/core/Tensor.h>

#include <vector>

namespace pimoe {

struct RotaryTable;

/// One layer's keys, turned by their positions' angles, and values: [C, S, KV, d] each, of C sequences with room for S positions. Of latent
/// attention they are kept as attention sees them, expanded: [C, S, H, n + r] and [C, S, H, v].
struct LayerCache {
  at::Tensor keys;
  at::Tensor values;
};

/// Keys and values of every layer, so that a token is computed once, when it comes, and not again with each token after it.
///
///     C sequences * S positions * layers * 2 KV d numbers; of latent attention H (n + r + v) in place of 2 KV d
struct KeyValueCache {
  /// @param sequences  C  @param dtype  the model's
  KeyValueCache(const ModelConfig& config, at::ScalarType dtype, c10::Device device, int64_t sequences);
  /// @returns bytes of one sequence's
  static int64_t bytes_of_sequence(const ModelConfig& config, at::ScalarType dtype);

  std::vector<LayerCache> layers;
};

/// What one forward pass adds to one sequence of a cache: `count` tokens from position `first` on. Either from the beginning, where what was kept of
/// the sequence before counts no more, or one token behind the kept ones.
struct CachedPart {
  int64_t sequence = 0;  ///< in [0, C), of no other part
  int64_t first = 0;
  int64_t count = 0;
};

/// The tokens of one forward pass, part after part, and what attention has to know of them.
struct CachedTokens {
  /// @throws ShapeError for parts that are neither from the beginning nor of one token, or do not fit S
  CachedTokens(std::vector<CachedPart> of_sequences, const RotaryTable& table, c10::Device device);

  std::vector<CachedPart> parts;
  int64_t count = 0;  ///< T
  at::Tensor cosine;  ///< [T, d/2] of each token's position
  at::Tensor sine;
  at::Tensor places;  ///< [T] int64: sequence * S + position
  at::Tensor last;    ///< [parts] int64: each part's last token
};

}  // namespace pimoe
