#pragma once

#include "base/log.h"
#include "bench/ceilings.h"
#include "bench/measurement.h"
#include "bench/scratch_folder.h"
#include "bench/training_step.h"
#include "train/train_config.h"

#include <nlohmann/json.hpp>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// One measured thing, for a program and for a person.
struct BenchRow {
  std::string suite;
  std::string name;
  std::optional<Spread> seconds = {};
  nlohmann::ordered_json values = nlohmann::ordered_json::object();  ///< what else is known of it, units in the names
  std::string summary = {};                                          ///< what a person asks for, beside the time
  std::vector<std::string> details = {};                             ///< lines below
};

struct BenchOptions {
  Effort effort;
  BenchSizes sizes;
};

/// A benchmark under way: where it runs, what the hardware can do, and the rows so far. Every rank has one, and makes the same calls.
class Bench {
 public:
  /// `mesh` and `log` must outlive it. Recorded routing is of tokens that are not here: it is left out.
  Bench(const TrainConfig& config, at::ScalarType dtype, const ProcessMesh& mesh, Logger& log, const BenchOptions& options);

  const TrainConfig& config() const { return config_; }
  at::ScalarType dtype() const { return dtype_; }
  const ProcessMesh& mesh() const { return mesh_; }
  const BenchSizes& sizes() const { return options_.sizes; }
  const Effort& effort() const { return options_.effort; }
  Logger& log() const { return log_; }
  bool on_gpu() const { return mesh_.device().is_cuda(); }

  Measurement measure(Clock clock, const Work& work) const { return pimoe::measure(mesh_, clock, options_.effort, work); }
  Measurement measure_lightly(Clock clock, const Work& work) const { return pimoe::measure(mesh_, clock, options_.effort.light(), work); }

  /// FLOP/s or bytes/s of a rank: what `name` of ceilings_of reached in the fastest tenth of its repetitions, which what else runs on the machine
  /// disturbs least. Measured now if it was not yet. Collective.
  double ceiling(const std::string& name);
  double gemm_ceiling() { return ceiling(gemm_name(dtype_)); }
  double copy_ceiling() { return ceiling(kCopyName); }
  /// Measures once more what was measured at the start, so that drift shows. Collective.
  void measure_ceilings_again();

  /// The configured training step, measured once for all suites that need it. Collective.
  const StepMeasurement& step();
  /// Made at the first call. Collective.
  const ScratchFolder& scratch();

  void add(BenchRow row) { rows_.push_back(std::move(row)); }
  const std::vector<BenchRow>& rows() const { return rows_; }

  int64_t most(int64_t of_rank) const;   ///< over the ranks. Collective.
  int64_t total(int64_t of_rank) const;  ///< likewise

 private:
  struct KnownCeiling {
    Ceiling ceiling;
    double rate = 0.0;  ///< at the start
  };

  /// @returns the best rate
  double measure_ceiling(const Ceiling& ceiling, std::optional<double> at_start);

  TrainConfig config_;
  at::ScalarType dtype_;
  const ProcessMesh& mesh_;
  Logger& log_;
  BenchOptions options_;
  std::vector<BenchRow> rows_;
  std::map<std::string, KnownCeiling> ceilings_;
  std::optional<StepMeasurement> step_;
  std::unique_ptr<ScratchFolder> scratch_;
};

}  // namespace pimoe
