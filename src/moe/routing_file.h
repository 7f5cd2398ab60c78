#pragma once

#include "moe/moe_config.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace pimoe {

/// What one layer's router decided for N tokens.
struct RoutingDecisions {
  int64_t choices = 0;           ///< K, of expert choice E
  std::vector<int32_t> experts;  ///< [N, K]; -1: none, of expert choice alone
  std::vector<double> weights;   ///< [N, K] gates
};

/// Of what write_routing writes; read_routing refuses others.
inline constexpr int64_t kRoutingFormat = 3;

/// Sampled decisions of one step on one rank: the content of one file.
///
///     format              [1] int64, kRoutingFormat
///     router_kind         attribute of the root group, text: model.moe.router.kind
///     expert_count        [1] int64, E of the model
///     choices             [1] int64, model.moe.choices
///     step                [1] int64, as in metrics.jsonl: the first is 1
///     token, token_id     [N] int64, index in the step's global batch, and the corpus' id
///     ROUTER/experts      [N, K] int32   ROUTER/weights  [N, K] float64      for each router by its name, "layers.3.moe.router"; with
///                         expert choice [N, E]
struct RoutingSample {
  int64_t step = 0;
  std::string router_kind;
  int64_t expert_count = 0;
  int64_t choices = 0;
  std::vector<int64_t> tokens;
  std::vector<int64_t> token_ids;
  std::map<std::string, RoutingDecisions> routers;
};

/// Writes `file` as HDF5, atomically, with its digest beside it in `file`.sha256, which `sha256sum -c` reads too. @throws IoError
void write_routing(const std::filesystem::path& file, const RoutingSample& sample);

/// @throws DataError if a file is damaged, has no digest beside it, is of another format, or is no sample of decisions that its router could
///         have taken (an expert twice for a token, none where it is not expert choice); IoError if it cannot be read, or is no regular file
RoutingSample read_routing(const std::filesystem::path& file);

/// Recorded decisions, to be taken again.
class RoutingReplay {
 public:
  /// @param path  a file of write_routing, or a folder of them: those of all ranks and steps together
  /// @throws DataError too where two files, or one, have a token of a step twice; IoError; both name the key
  explicit RoutingReplay(const std::filesystem::path& path);

  /// Refuses a recording of another model. @param routers  the names of all of the model's
  /// @throws DataError naming file, router and what it has, if one lacks a router, has one that the model has not, or another kind, K or E
  void require_fits(const std::vector<std::string>& routers, const MoeConfig& moe) const;

  /// Whether one of these steps was recorded. @param first, last  as in metrics.jsonl
  bool has_steps(int64_t first, int64_t last) const;
  /// "step 5", "steps 5 to 9"
  std::string steps() const;

  /// @param step         as in BatchContext: steps done before this one
  /// @param first_token  index of the first row's token in the step's global batch
  /// @param token_ids    [T] int64, the corpus' ids of these tokens: decisions belong to the batch that they were taken for
  /// @param experts      [T, K] int32, the router's own choice
  /// @returns [T, K] with the recorded choice where there is one for this step, router and token
  /// @throws DataError if the recording has another K, another token id, or an expert that is not below `expert_count`
  /// @cost a copy between host and device in a step that was recorded
  at::Tensor apply(const std::string& router, int64_t step, int64_t first_token, int64_t expert_count, const at::Tensor& token_ids,
                   const at::Tensor& experts) const;

 private:
  struct Recording {
    std::string file;  ///< for messages
    RoutingSample sample;
  };
  void read(const std::filesystem::path& path);

  std::map<int64_t, std::vector<Recording>> steps_;  ///< by BatchContext's step
};

}  // namespace pimoe
