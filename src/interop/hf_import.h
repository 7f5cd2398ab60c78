#pragma once

#include "base/log.h"
#include "interop/hf_family.h"
#include "interop/safetensors_folder.h"
#include "interop/upcycle.h"
#include "interop/weight_names.h"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// A model in a folder of Hugging Face's, checked and ready to become a checkpoint.
class HfImport {
 public:
  /// Reads config.json and the headers of all weights.
  /// @param sequence_length  as for model_of_config
  /// @throws IoError; DataError naming the key or the tensor that is missing, has another shape, is of numbers that are no weights', or has no place
  ///         in the model
  /// @param upcycling  makes a model with experts of a dense one
  HfImport(const std::filesystem::path& folder, int64_t sequence_length, const std::optional<Upcycling>& upcycling = std::nullopt);

  const HfModel& hf() const { return hf_; }                             ///< as it lies there
  const ModelConfig& model() const { return model_; }                   ///< as it is imported: the same, or with experts
  const std::vector<std::string>& remarks() const { return remarks_; }  ///< for the log
  at::ScalarType dtype() const { return dtype_; }                       ///< of most weights
  int64_t parameters() const;
  const SafetensorsFolder& weights() const { return weights_; }

  /// Writes a checkpoint of step 0, as a run has one that has not taken a step: these masters, exactly (float32, or float64 where they were), and
  /// moments of zeros.
  /// @param config  resolved, YAML  @param seed  run.seed, of what an upcycled model draws
  /// @throws SaveError; DataError naming a tensor whose numbers are not finite; nothing is left of the checkpoint
  /// @cost   reads the weights once; memory of three parts of 256 MiB
  void write(const std::filesystem::path& checkpoint, const std::string& config, uint64_t seed, Logger& log) const;

  /// Files of the folder that belong to the model and not to its weights: tokenizer, generation, config.json.
  std::vector<std::string> companions() const;

 private:
  void check_part(const HfPart& part) const;
  void check_leftovers();
  /// Whether a tensor is of layers that predict further tokens.
  bool is_predictors(const std::string& name) const;
  /// @returns elements [begin, begin + count) of one of our parameters, of the masters' dtype
  at::Tensor read(const WeightPlan& plan, int64_t begin, int64_t count, uint64_t seed) const;
  /// @returns elements of a part as they are stored
  at::Tensor read_part(const HfPart& part, int64_t begin, int64_t count) const;

  std::filesystem::path folder_;
  SafetensorsFolder weights_;
  HfModel hf_;
  ModelConfig model_;
  std::vector<WeightPlan> plans_;
  std::vector<std::string> remarks_;
  at::ScalarType dtype_ = at::kFloat;
};

/// Names of files that companions() looks for, and export takes over.
const std::vector<std::string>& companion_names();

}  // namespace pimoe
