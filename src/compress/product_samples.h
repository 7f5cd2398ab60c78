#pragma once

#include "compress/compression_report.h"
#include "model/transformer.h"
#include "moe/matrix.h"
#include "parallel/process_mesh.h"
#include "train/loaded_model.h"

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace pimoe {

/// Some rows that matrices multiply in a model, and what comes of them: to see how far off another model's products of the same rows are.
class ProductSamples {
 public:
  /// Computes the first sequence of a corpus. @param names  of matrices, each of which gives some rows. Collective
  /// @param loaded  as SizeCounts requires
  ProductSamples(const LoadedModel& loaded, const TokenFile& corpus, const std::set<std::string>& names);

  /// Adds to each layer the error of its worst product, |int8 - before| / |before|. @param quantized  has the matrices under the same names, in the same
  /// layout. Collective
  void add_errors(const LoadedModel& quantized, std::vector<LayerChange>& layers) const;

 private:
  struct Sample {
    at::Tensor rows;     ///< [R, A]
    at::Tensor ends;     ///< [G] int32; of a dense matrix [1]
    at::Tensor results;  ///< [R, B] float32
  };
  std::map<std::string, Sample> samples_;
};

/// Computes one sequence of a corpus from a position on, on the first rank of every expert group, as the proof of a load does. Collective
/// @param longest  tokens of it, at most  @returns how many it has
int64_t compute_sequence(const LoadedModel& loaded, const TokenFile& corpus, int64_t begin,
                         int64_t longest = std::numeric_limits<int64_t>::max());

/// Of each MoE layer the matrix that is the first to multiply its tokens. REQUIRES a router with scores
std::vector<std::string> first_matrices_of_routers(const ModelConfig& model);

/// Shows `see` what a model's matrices multiply while it lives.
class MatrixWatch {
 public:
  using See = std::function<void(const Parameter& matrix, const at::Tensor& rows, const at::Tensor& ends)>;
  MatrixWatch(ParameterList& parameters, const std::set<std::string>& names, See see);
  ~MatrixWatch();
  MatrixWatch(const MatrixWatch&) = delete;
  MatrixWatch& operator=(const MatrixWatch&) = delete;

 private:
  std::vector<Parameter*> watched_;
};

}  // namespace pimoe
