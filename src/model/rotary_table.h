#pragma once

#include "model/model_config.h"
#include "ops/packed_documents.h"

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace pimoe {

/// Angles a position of each pair of a head's numbers.
///
/// @param width  d of the numbers that turn, even  @param sequence_length  model.sequence_length
/// @returns [d/2]: theta^(-2i/d), stretched: linear f / factor; yarn and llama3 (1 - r) f / factor + r f with r in [0, 1] from each one's ramp
/// @source as in Hugging Face transformers' modeling_rope_utils.py, in float64
std::vector<double> rotary_frequencies(const RotaryConfig& rotary, double theta, int64_t width, int64_t sequence_length);

/// What cosine and sine are multiplied by: 1 but for yarn. @source arXiv 2309.00071 eq. 22; with mscale as in DeepSeek-V3
double rotary_attention_factor(const RotaryConfig& rotary);

/// 0.1 mscale ln(factor) + 1, and 1 for factors up to 1
double yarn_mscale(double factor, double mscale);

/// Angles of the rotary positions: cosine and sine, [S, d/2] each, at least float32.
struct RotaryTable {
  RotaryTable(const ModelConfig& config, at::ScalarType compute_dtype, c10::Device device);
  at::Tensor cosine;
  at::Tensor sine;
};

/// Where a batch' tokens stand, the same for all layers.
struct TokenPlaces {
  /// @param positions  S of the batch, at most the table's  @param documents  that its rows are packed from; nothing: each row is one
  TokenPlaces(const RotaryTable& table, int64_t positions, const std::optional<PackedDocuments>& documents);

  at::Tensor
      cosine;  ///< [S, d/2], the same for each row; of documents [B S, d/2], of each token its own, counted from its document's beginning
  at::Tensor sine;
  std::optional<PackedDocuments> documents;
};

}  // namespace pimoe
