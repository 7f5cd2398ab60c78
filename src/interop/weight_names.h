#pragma once

#include "base/box.h"
#include "interop/hf_family.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// A tensor of Hugging Face's that is a stretch of one of ours.
struct HfPart {
  std::string name;
  std::vector<int64_t> shape;
  bool wide = false;                        ///< in float32 whatever the others are in
  std::optional<Box> block = std::nullopt;  ///< of a matrix: this block of it alone; nothing: all of it

  int64_t numel() const { return (block ? *block : Box::whole(shape)).numel(); }
};

/// One of our parameters: its elements are those of the parts, one after the other. All of it fits: our matrices are [out, in] as theirs; queries,
/// keys and values, and gate and up, are rows of one matrix; experts lie behind each other; rotary positions turn the pairs (i, i + d/2) in both.
///
///     layers.0.attention.qkv.weight [(H + 2 KV) d, D]     q_proj [H d, D] | k_proj [KV d, D] | v_proj [KV d, D]
///     layers.0.moe.experts.gate_up.weight [E, 2 F, D]     experts.0.gate_proj [F, D] | experts.0.up_proj [F, D] | experts.1.gate_proj ...
///                                                         or, merged, experts.gate_up_proj [E, 2 F, D]
///     layers.0.moe.router.bias [E], a state               DeepSeek-V3's e_score_correction_bias
struct WeightPlan {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<HfPart> parts;
  bool is_state = false;  ///< not trained: no parameter of the model, and without moments
  int64_t repeat = 1;     ///< without parts: begins as new weights do, this many neighbouring rows the same
  double factor = 1.0;    ///< ours are theirs times this
  double noise = 0.0;     ///< and times 1 + noise * N(0, 1)
};

/// @param has  whether the folder that is read has a tensor: chooses merged names (transformers 5) where it has those. Writing: none is there,
///             and each expert has names of its own, as every version reads
/// @param check  is told of every part as it is planned, and may throw: a config.json may speak of more than memory could list
/// @returns the parameters of Transformer, each once, and the routers' biases of families that have them
std::vector<WeightPlan> weight_plans(HfFamily family, const ModelConfig& model, const std::function<bool(const std::string&)>& has,
                                     const std::function<void(const HfPart&)>& check);

}  // namespace pimoe
