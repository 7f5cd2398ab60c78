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
  /// @param routers          the names of the MoE layers' routers, in order
  /// @param sequence_length  S
  RoutingLog(const RoutingLogConfig& config, std::filesystem::path folder, int rank, std::vector<std::string> routers,
             int64_t sequence_length);

  /// One micro-step's forward pass. @param step  as in metrics.jsonl. @cost in a step that is due, a copy to the host of what is wanted
  void add(int64_t step, const MicroBatch& batch, const Prediction& prediction);
  /// The step is over: writes what it added up. @throws IoError
  void write();

 private:
  RoutingLogConfig config_;
  std::filesystem::path folder_;
  int rank_;
  std::vector<std::string> routers_;
  int64_t sequence_length_;
  RoutingSample sample_;
};

}  // namespace pimoe
