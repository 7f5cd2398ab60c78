#pragma once

#include "checkpoint/snapshot.h"
#include "interop/hf_family.h"
#include "interop/safetensors_folder.h"
#include "interop/upcycle.h"
#include "interop/weight_names.h"

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// Which of several processes reads a folder: what has to be looked at whole they share out.
struct HfReader {
  int64_t rank = 0;
  int64_t ranks = 1;
};

/// What the new weights of an upcycled model are drawn with.
struct HfDraw {
  uint64_t seed = 0;       ///< run.seed
  double deviation = 0.0;  ///< model.initial_deviation
};

/// A model in a folder of Hugging Face's, checked, whose weights any layout can read: each process the stretches that it holds.
class HfImport {
 public:
  /// Reads config.json and the headers of all weights.
  /// @param sequence_length  as for model_of_config
  /// @param upcycling  makes a model with experts of a dense one
  /// @throws IoError; DataError naming the key or the tensor that is missing, has another shape, is of numbers that are no weights', or has no place
  ///         in the model
  HfImport(const std::filesystem::path& folder, int64_t sequence_length, const std::optional<Upcycling>& upcycling = std::nullopt,
           const HfReader& reader = {});

  const HfModel& hf() const { return hf_; }                             ///< as it lies there
  const ModelConfig& model() const { return model_; }                   ///< as it is imported: the same, or with experts
  const std::vector<WeightPlan>& plans() const { return plans_; }       ///< of the latter
  const std::vector<std::string>& remarks() const { return remarks_; }  ///< for the log
  at::ScalarType dtype() const { return dtype_; }                       ///< of most weights
  /// Of masters that hold all of them exactly: float32, or float64 where any is.
  at::ScalarType master_dtype() const { return master_dtype_; }
  int64_t parameters() const;
  const SafetensorsFolder& weights() const { return weights_; }

  /// Fills pieces of training state as a run that has not taken a step has them: masters, and the routers' biases of families that have them, are the
  /// folder's; moments and other states zeros.
  /// @param pieces  of a model of model()'s shape, in any layout and floating dtype, on any device; counted as work (count_work)
  /// @throws DataError naming a tensor whose numbers are not finite, or a weight that the folder does not have; IoError
  /// @cost reads what the pieces hold, once, in stretches of at most 32 MB
  void fill(const std::vector<StatePiece>& pieces, const HfDraw& draw) const;

 private:
  void choose_dtypes();
  void check_part(const HfPart& part) const;
  void check_leftovers(const HfReader& reader);
  /// Some files have the head of tied embeddings too. @throws DataError where it is not the embedding
  void check_tied_head(const std::string& name, const HfReader& reader) const;
  /// Whether a tensor is of layers that predict further tokens.
  bool is_predictors(const std::string& name) const;
  /// @returns elements [begin, begin + count) of one of our parameters, of the masters' dtype
  at::Tensor read(const WeightPlan& plan, int64_t begin, int64_t count, const HfDraw& draw) const;
  /// @returns elements of a part as they are stored
  at::Tensor read_part(const HfPart& part, int64_t begin, int64_t count) const;

  std::filesystem::path folder_;
  HfModel hf_;
  SafetensorsFolder weights_;
  ModelConfig model_;
  std::vector<WeightPlan> plans_;
  std::map<std::string, size_t> plan_of_;  ///< by the name of our parameter
  std::vector<std::string> remarks_;
  at::ScalarType dtype_ = at::kFloat;
  at::ScalarType master_dtype_ = at::kFloat;
};

/// What config.json alone says. @throws as HfImport, of config.json
HfModel read_hf_model(const std::filesystem::path& folder, int64_t sequence_length);

}  // namespace pimoe
