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

/// A file that a RoutingLog wrote, or has begun to write.
struct RoutingLogFile {
  int64_t step = 0;
  std::filesystem::path path;
  bool regular = true;  ///< otherwise it is in the way of one
};

/// @returns a warning of a file that is not regular
std::string in_the_way(const RoutingLogFile& file);

/// What is in a folder of them, sorted; files with other names are somebody else's. Nothing where the folder cannot be read.
std::vector<RoutingLogFile> routing_log_files(const std::filesystem::path& folder);

/// Writes sampled routing decisions of this rank: FOLDER/step-00000100-rank-0000.h5, routing_file.h has the format. A rank with none of a
/// step's first tokens writes nothing, and no rank does in a model without experts.
class RoutingLog {
 public:
  /// Tries the folder, and makes it where it is missing, if something is to be recorded.
  /// @param routers          the names of the MoE layers' routers, in order
  /// @param sequence_length  S
  /// @throws IoError naming the key
  RoutingLog(const RoutingLogConfig& config, std::filesystem::path folder, int rank, std::vector<std::string> routers, const MoeConfig& moe,
             int64_t sequence_length);

  /// One micro-step's forward pass. @param step  as in metrics.jsonl. @cost in a step that is due, a copy to the host of what is wanted
  void add(int64_t step, const MicroBatch& batch, const Prediction& prediction);
  /// Whether a step is recorded: the same on every rank.
  bool is_due(int64_t step) const;
  /// The step is over: writes what it added up. @returns "" or why it could not be written; it is lost then
  std::string write();
  /// The run goes on from `step`: removes what all ranks, those of other layouts too, recorded of later ones, which are now done again. One rank
  /// does it before any writes. @returns what could not be removed, a line each
  std::vector<std::string> cut_after(int64_t step) const;

 private:
  void try_folder() const;

  RoutingLogConfig config_;
  std::filesystem::path folder_;
  int rank_;
  std::vector<std::string> routers_;
  MoeConfig moe_;
  int64_t sequence_length_;
  RoutingSample sample_;
};

}  // namespace pimoe
