#pragma once

/// Skew and fault drills: each brings a model of the configured shape into trouble on purpose, trains a few steps, and says what held.

#include "base/log.h"
#include "parallel/mpi_session.h"
#include "parallel/process_mesh.h"
#include "train/train_config.h"

#include <string>
#include <vector>

namespace pimoe {

/// One statement, and whether it held.
struct DrillCheck {
  std::string what;
  bool held = true;
};

struct DrillOutcome {
  std::vector<DrillCheck> checks;  ///< on rank 0 alone
  std::vector<std::string> notes;  ///< what the drill had to change in the configuration, what it left out
};

/// Where a drill runs.
struct DrillPlace {
  const TrainConfig& config;
  const ProcessMesh& mesh;
  const MpiSession& session;  ///< rank 0 makes a mesh of its own out of it, for the same steps on one rank
};

struct Drill {
  const char* name;
  const char* holds;  ///< a sentence: what must hold
  DrillOutcome (*run)(const DrillPlace& place);
};

/// All drills. Each `run` is collective over the mesh. @throws ConfigError where the configured model cannot be brought into the drill's trouble
const std::vector<Drill>& all_drills();

}  // namespace pimoe
