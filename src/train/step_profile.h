#pragma once

#include "base/log.h"
#include "ops/trace_range.h"
#include "parallel/process_mesh.h"
#include "train/phase_times.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace pimoe {

/// `train --profile`: which steps, and what of them.
struct ProfileRequest {
  int64_t first = 0;    ///< counted from 1, as in the log
  int64_t last = 0;     ///< itself included
  bool memory = false;  ///< also the allocations of a GPU

  static constexpr int64_t kMostSteps = 1000;  ///< traces are kept in memory until they are written

  /// @param text  "steps=10:12", "steps=10", "steps=10:12,memory"  @throws UsageError naming the rule that it breaks
  static ProfileRequest parse(const std::string& text);
};

/// Profiles a stretch of steps by libtorch's profiler: a Chrome trace of each rank, and a table of time by phase and rank.
///
///     RUN/profile/steps-10-12/rank-0000.json      opened by https://ui.perfetto.dev or chrome://tracing
///     RUN/profile/steps-10-12/phases.json         the table's numbers
///     RUN/profile/steps-10-12/rank-0000-memory.pickle   where asked for, on GPUs: https://docs.pytorch.org/memory_viz
///
/// What it cannot write is a warning: training goes on. @cost while it runs some microseconds an operation, and memory of a few hundred bytes each
class StepProfile {
 public:
  /// @param mesh, log  must outlive it
  StepProfile(const ProfileRequest& request, const std::filesystem::path& run, const ProcessMesh& mesh, Logger& log);
  ~StepProfile();
  StepProfile(const StepProfile&) = delete;
  StepProfile& operator=(const StepProfile&) = delete;

  /// Before every step, the one that is then being made counted from 1. Collective where the profile ends.
  void begin_step(int64_t step);
  /// Whether the step that is being made is one of those profiled.
  bool is_open() const { return is_open_; }
  /// After the run's last step. Collective
  void finish();

 private:
  void open();
  void close();

  ProfileRequest request_;
  std::filesystem::path folder_;
  const ProcessMesh& mesh_;
  Logger& log_;
  bool is_open_ = false;
  bool is_done_ = false;
  int64_t steps_ = 0;  ///< seen
  std::string step_name_;
  std::optional<TraceRange> step_range_;
};

}  // namespace pimoe
