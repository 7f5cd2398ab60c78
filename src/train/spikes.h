#pragma once

#include "base/config_fields.h"

#include <map>
#include <string>

namespace pimoe {

enum class OnSpike { kOff, kReport, kSkip };

/// `train.spikes:`
struct SpikeConfig {
  OnSpike action = OnSpike::kReport;
  double sigma = 6.0;    ///< standard deviations above the mean from which a value is a spike
  int64_t window = 100;  ///< steps that mean and deviation remember; as many are watched before the first can be one

  void fields(FieldVisitor& visit);
};

/// Watches each step's loss and gradient norm for values far above those of the steps before. All ranks see and say the same.
///
/// Mean m and variance v of the values x that were taken forget with a = max(1 / n, 2 / (window + 1)) at the n-th:
///     d = x - m,  m += a d,  v = (1 - a) (v + a d^2)
/// @source T. Finch, Incremental calculation of weighted mean and variance, 2009, section 9. What lies beyond m + sigma sqrt(v) is taken in as that
/// bound: one spike hides no other, and values that stay high become the usual ones.
class SpikeWatch {
 public:
  explicit SpikeWatch(const SpikeConfig& config) : config_(config) {}

  /// @returns "loss 9.1 is 14 standard deviations above the mean 2.3 of the last 100 steps"; "" where nothing is unusual, or the watch is off
  std::string spike(double loss, double gradient_norm) const;
  /// A step was taken with these values, both finite.
  void take(double loss, double gradient_norm);

  /// For checkpoints; keys begin with "spikes.".
  std::map<std::string, double> state() const;
  static bool is_state(const std::string& key);
  /// What is missing begins afresh.
  void restore(const std::map<std::string, double>& numbers);

 private:
  struct Usual {
    double mean = 0.0;
    double variance = 0.0;
    double count = 0.0;  ///< values taken
  };
  double bound(const Usual& usual) const;
  std::string spike_of(const char* what, double value, const Usual& usual) const;

  SpikeConfig config_;
  Usual loss_;
  Usual norm_;
};

}  // namespace pimoe
