#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace pimoe {

/// The layout that a checkpoint is rewritten for.
struct ReshardTarget {
  int64_t ranks = 1;
  int64_t expert_parallel = 1;            ///< must divide ranks and every expert tensor's first dimension
  int64_t part_bytes = int64_t{1} << 30;  ///< elements in one file
};

/// Writes `from` again as `target.ranks` ranks would hold it, into `to` (".../step-00000100", which must not exist): each rank's files have
/// its even stretch of every dense tensor, and of its share of the experts (is_expert_tensor, cut along the first dimension).
/// Values, numbers, counters and configuration stay to the bit. Training reads any layout without this; a rewritten checkpoint makes each
/// rank read only its own files, and fits ranks of another number or size of file.
///
/// @param progress  told of each file that is written
/// @throws CheckpointError where `from` is damaged or `target` does not fit it; SaveError where `to` cannot be written: it is then not there
/// @cost reads `from` and writes `to` once; host memory of three parts
void reshard_checkpoint(const std::filesystem::path& from, const std::filesystem::path& to, const ReshardTarget& target,
                        const std::function<void(const std::string& file, int64_t bytes)>& progress = {});

}  // namespace pimoe
