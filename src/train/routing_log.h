#pragma once

#include "data/data_stream.h"
#include "model/transformer.h"
#include "moe/routing_file.h"

#include <filesystem>
#include <string>
#include <vector>

namespace pimoe {

/// `log.routing:`
struct RoutingLogConfig {
  int64_t every_steps = 0;  ///< 0: never
  int64_t tokens = 64;      ///< the first of the step's global batch

  void fields(FieldVisitor& visit);
};

/// Writes sampled routing decisions of this rank: FOLDER/step-00000100-rank-0000.h5, routing_file.h has the format. A rank with none of a
/// step's first tokens writes nothing.
class RoutingLog {
 public:
  /// @param routers  the names of the MoE layers' routers, in order
  RoutingLog(const RoutingLogConfig& config, std::filesystem::path folder, int rank, std::vector<std::string> routers,
             const ModelConfig& model);

  /// Rank 0's part before the run goes on after `step`: makes the folder, and removes what all ranks recorded of later steps, which are done
  /// again, perhaps by other ranks. Nothing where nothing is recorded. @throws IoError if the folder cannot be made or written
  void begin_after(int64_t step) const;

  /// @returns whether decisions of this step are recorded
  bool is_due(int64_t step) const { return config_.every_steps > 0 && step % config_.every_steps == 0; }

  /// One micro-step's forward pass. @param step  as in metrics.jsonl. @cost in a step that is due, a copy to the host of what is wanted
  void add(int64_t step, const MicroBatch& batch, const Prediction& prediction);
  /// The step is over: writes what it added up. @returns "", or what failed: recordings are no reason to end a run
  std::string write();

 private:
  RoutingLogConfig config_;
  std::filesystem::path folder_;
  int rank_;
  std::vector<std::string> routers_;
  std::string router_kind_;
  int64_t choices_;
  int64_t experts_;
  int64_t sequence_length_;
  RoutingSample sample_;
};

}  // namespace pimoe
