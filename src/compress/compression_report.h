#pragma once

/// What a smaller model is worth beside the one that it was made of: `pimoe quantize` and whatever else makes models smaller.

#include <ATen/core/Tensor.h>
#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// What a checkpoint holds.
struct ModelSize {
  int64_t bytes = 0;         ///< of all weights
  int64_t expert_bytes = 0;  ///< of routed experts' weights, and what belongs to them
  int64_t parameters = 0;    ///< weights alone, without scales
  int64_t experts = 0;       ///< routed experts of all layers
};

/// How fast a model is on the ranks that measured it, together; nothing where it cannot be told.
struct ModelSpeed {
  std::optional<double> prefill = {};  ///< tokens a second of one sequence a rank
  std::optional<double> decode = {};   ///< tokens a second, one after the other
};

/// What a model makes of a corpus.
struct ModelMeasurement {
  double cross_entropy = 0.0;  ///< nats, of all tokens
  int64_t tokens = 0;
  ModelSpeed speed = {};
  std::vector<at::Tensor> experts = {};  ///< of each MoE layer [T, K] int32: this rank's tokens' experts, each token's in rising order
  std::vector<at::Tensor> loads = {};    ///< of each MoE layer [E] int64: slots that each expert was given, over all ranks

  double loss() const { return cross_entropy / static_cast<double>(tokens); }
};

/// One layer, before and after.
struct LayerChange {
  int64_t layer = 0;
  std::optional<double> agreement = {};  ///< share of tokens whose experts are unchanged; of MoE layers
  std::optional<double> output_error =
      {};  ///< |changed - before| / |before| for the same inputs, of its worst product or of what its experts give together
  std::string worst_matrix = {};           ///< which product that is; empty: what its experts give
  std::optional<double> used_before = {};  ///< experts that the layer uses, e^entropy of their loads, as a share of all
  std::optional<double> used_after = {};
};

struct CompressionReport {
  std::string checkpoint = {};  ///< that it was made of
  std::string output = {};
  std::string change = {};  ///< "int8 dynamic: experts, attention, dense"
  std::string kernel = {};  ///< that ran
  int64_t step = 0;
  std::string corpus = {};  ///< that both were measured on
  int64_t tokens = 0;       ///< of it
  int64_t ranks = 1;
  ModelSize size_before = {}, size_after = {};
  double loss_before = 0.0, loss_after = 0.0;
  ModelSpeed speed_before = {}, speed_after = {};
  std::vector<LayerChange> layers = {};
  std::vector<std::string> remarks = {};

  /// (after - before) / before
  double loss_increase() const { return (loss_after - loss_before) / loss_before; }
  /// Of all MoE layers; nothing without one.
  std::optional<double> agreement() const;
  /// Whose experts changed most, and whose products are furthest off; null where no layer has such a figure.
  const LayerChange* worst_by_agreement() const;
  const LayerChange* worst_by_output() const;
};

/// Share of equal rows. @param before, after  [T, K] in rising order; a row counts as unchanged where all of it is
/// @returns unchanged rows and all rows
std::pair<int64_t, int64_t> unchanged_rows(const at::Tensor& before, const at::Tensor& after);

/// e^entropy of the loads over their number: 1 where all experts are given the same, 1 / E where one is given all; 0 of no load.
double used_share(const at::Tensor& loads);

nlohmann::ordered_json to_json(const CompressionReport& report);
/// A table of before and after, one of the layers, and what was remarked.
std::string to_text(const CompressionReport& report);

}  // namespace pimoe
