#pragma once

#include "compress/product_samples.h"
#include "train/loaded_model.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>

namespace pimoe {

/// Counts the sizes of the numbers that matrices multiply while it lives: of each expert by itself.
class SizeCounts {
 public:
  /// REQUIRES moe.memory == MoeMemory::kFast: else gates weigh what an expert's last matrix multiplies, and of an int8 one they weigh the result.
  SizeCounts(ParameterList& parameters, const MoeConfig& moe, const std::set<std::string>& names);

  /// @returns by the matrix' name [E, bins] int64 of all experts, or [1, bins], summed over all ranks: the same on every rank. Collective
  std::map<std::string, at::Tensor> over(const Communicator& ranks) const;

 private:
  struct Counted {
    Box box;
    at::Tensor counts;  ///< [n, bins] of this rank's
  };
  std::map<std::string, Counted> counted_;
  std::optional<MatrixWatch> watch_;
};

/// The scale of the rows that each matrix multiplies, for int8 products with fixed scales: of each expert its own.
///
/// Chosen where rounding and cutting off together cost least: of all limits c the one with the smallest sum over the numbers x that were seen of
///
///     (c / 127)^2 / 12     where |x| <= c: rounded to the nearest of its steps
///     (|x| - c)^2          else: cut off
///
/// A percentile would ask how many outliers a model has; here what they weigh decides. Numbers are counted in sixteen parts of each octave.
class Calibration {
 public:
  /// Computes sequences of a corpus from its beginning, `samples` of them or as many as it has, and counts what the matrices multiply. The same scales at
  /// any number of ranks, but for rounding. Collective
  /// @param loaded  as SizeCounts requires
  /// @throws DataError as ValidationPart; an id beyond the model's vocabulary
  Calibration(const LoadedModel& loaded, const std::filesystem::path& corpus, int64_t samples, const std::set<std::string>& names,
              Logger& log);

  /// By the matrix' name: [n] float32 of n experts, or [1]; all experts, whichever rank holds them.
  const std::map<std::string, at::Tensor>& scales() const { return scales_; }
  int64_t samples() const { return samples_; }
  /// Experts that were given no token: they have the scale of their layer's others together.
  int64_t unseen() const { return unseen_; }

 private:
  std::map<std::string, at::Tensor> scales_;
  int64_t samples_ = 0;
  int64_t unseen_ = 0;
};

/// @param counts  [kSizeBins] as count_sizes has them  @returns the best limit / 127; 0 where nothing was counted but zeros
float best_scale(const at::Tensor& counts);
/// Adds the sizes of rows' numbers to counts [G, bins] int64, group by group. @param ends  undefined: one group
void count_sizes(const at::Tensor& rows, const at::Tensor& ends, at::Tensor& counts);
/// Bins: one of zeros, and sizes from 2^-40 to 2^40 in sixteen equal parts of each octave.
constexpr int64_t kSizeBins = 1 + 80 * 16;

}  // namespace pimoe
