#pragma once

#include "parallel/device.h"
#include "parallel/process_mesh.h"

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// Seconds of several repetitions: the median, and what eight in ten of them lie between.
struct Spread {
  double median = 0.0;
  double low = 0.0;   ///< 10th percentile
  double high = 0.0;  ///< 90th percentile
  int64_t repetitions = 0;
};

/// @param samples  not empty; percentiles lie between neighbours in proportion
Spread spread_of(std::vector<double> samples);

/// How long a measurement goes on.
struct Effort {
  double seconds = 1.0;  ///< that repetitions take together
  int64_t warm_ups = 2;  ///< at least 1: it says how long a repetition takes
  int64_t least = 5;     ///< repetitions, however long they take
  int64_t most = 200;

  /// For what takes long and wears disks: fewer repetitions.
  Effort light() const { return {.seconds = seconds, .warm_ups = 1, .least = 3, .most = 20}; }
};

/// @returns repetitions of `seconds_each` that the effort wants
int64_t repetitions_for(double seconds_each, const Effort& effort);

/// Parts of one repetition, as its work marks them: their times are added up by name.
class Parts {
 public:
  void add(const std::string& name, const TimeMark& begin, const TimeMark& end) { marked_.push_back({name, begin, end}); }

 private:
  friend class Repetition;
  struct Marked {
    std::string name;
    TimeMark begin, end;
  };
  std::vector<Marked> marked_;
};

/// Runs once what is measured; every repetition marks the same parts, on every rank.
using Work = std::function<void(Parts& parts)>;

/// A part of the repetitions, or all of them.
struct TimedPart {
  std::string name;
  Spread seconds;                    ///< of each repetition the slowest rank's
  std::vector<double> rank_medians;  ///< [P] each rank's own median
};

struct Measurement {
  Spread seconds;                ///< of each repetition the slowest rank's
  std::vector<TimedPart> parts;  ///< in the order in which they were marked

  /// @throws Error if there is no such part
  const TimedPart& part(const std::string& name) const;
};

/// Whose clock tells the time of a repetition.
enum class Clock {
  kDevice,  ///< CUDA events on the current stream of a GPU, with repetitions queued one after the other; a CPU's own clock
  kHost,    ///< the host's: for work that waits for the device itself, and for files
};

/// Warms up, repeats `work` until the effort is spent, and takes the slowest rank's time of each repetition. Ranks begin every repetition together.
/// Collective over the mesh: every rank calls, and gets the same.
Measurement measure(const ProcessMesh& mesh, Clock clock, const Effort& effort, const Work& work);

}  // namespace pimoe
