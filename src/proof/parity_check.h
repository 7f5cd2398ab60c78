#pragma once

#include "parallel/mpi_session.h"
#include "parallel/process_mesh.h"
#include "proof/parity_report.h"
#include "train/train_config.h"

namespace pimoe {

struct ParityOutcome {
  int64_t sequences = 0;  ///< of the step
  int64_t micro_steps = 0;
  ParityReport report;  ///< complete on rank 0 alone
};

/// One step of the mesh's layout, of one rank (rank 0 alone) and of the loop of parity_reference.h, compared. Collective.
///
/// What no two layouts could agree on is turned off, and recorded routing decisions are: the routers' own are to be judged. The report's notes
/// say so.
/// With PIMOE_PARITY_BREAK=NAME in the environment rank 0's contribution to this parameter's gradient comes out wrong in the layout's run: a
/// check that cannot fail proves nothing.
///
/// @param sequences  of the batch; 0: train.global_batch, at most 4
/// @throws UsageError for a NAME that the model has not, and for a batch whose logits cannot fit this machine's memory
ParityOutcome check_parity(TrainConfig config, int64_t sequences, at::ScalarType dtype, const ProcessMesh& mesh, const MpiSession& session);

}  // namespace pimoe
