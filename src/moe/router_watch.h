#pragma once

#include "moe/load_statistics.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pimoe {

/// Something that a person should look at. Told once, and again only after it was over.
struct RouterAlarm {
  int64_t layer = 0;             ///< the model's
  std::vector<int64_t> experts;  ///< that had no slot in the look, or the one that has the most; none where results were not finite
  std::string text;
};

/// Watches every run's routers, with adaptive control or without: alarms on routers that collapse, experts without a slot, and results that
/// are not finite.
///
/// A look is `window` steps. A router collapses when (H(c) - ln K) / (ln E - ln K), with H as mean over a look, is below
/// `collapse_entropy`. An expert is missed when it
/// had no slot in a whole look. What lasts is told once, also across a resume: the state is part of every checkpoint.
///
/// A function of what it observed alone, so that it is the same on every rank: it must be fed global counts. No tensors, no randomness.
class RouterWatch {
 public:
  RouterWatch(int64_t window, double collapse_entropy, const MoeLayers& layers);

  /// Takes in a step that updated the weights. @param step  its number, for the texts
  /// @param load  [N][E] slots of each expert over the step's global batch  @cost N * E operations on the host
  std::vector<RouterAlarm> observe(int64_t step, const std::vector<std::vector<int64_t>>& load);
  /// Takes in any step. @param slots  [N] set aside over the step's global batch, because their expert's result was not finite
  std::vector<RouterAlarm> observe_nonfinite(int64_t step, const std::vector<double>& slots);

  /// Everything that later alarms depend on, keys for which is_state() holds.
  std::map<std::string, double> state() const;
  static bool is_state(const std::string& key);
  /// Takes what state() gave out of a larger map. @returns false, and changes nothing, if there is none of it
  /// @throws CheckpointError if there is only a part of it
  bool restore(const std::map<std::string, double>& numbers);

 private:
  struct Layer {
    double entropy = 0.0;         ///< sum over the look
    double collapsed = 0.0;       ///< 1: the alarm is told
    double nonfinite = 0.0;       ///< likewise
    std::vector<double> used;     ///< [ceil(E / 32)] words of bits: experts that had a slot in this look
    std::vector<double> missing;  ///< likewise: experts that an alarm has told of
  };

  template <class Visit>
  void each_number(const Visit& visit);
  void look_for_collapse(int64_t step, int64_t index, const std::vector<int64_t>& load, std::vector<RouterAlarm>& alarms);
  void look_for_missing(int64_t step, int64_t index, std::vector<RouterAlarm>& alarms);

  int64_t window_;
  double collapse_entropy_;
  MoeLayers moe_;
  std::vector<Layer> layers_;
  double look_steps_ = 0.0;
};

}  // namespace pimoe
