#include "checkpoint/reshard.h"

#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/local_save.h"
#include "checkpoint/rank_share.h"
#include "checkpoint/shard_plan.h"
#include "checkpoint/training_state.h"
#include "checkpoint/verification.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// What a rank of the target holds; the values are not there yet.
std::vector<StatePiece> pieces_of_rank(const std::map<std::string, CheckpointReader::Tensor>& tensors, const ReshardTarget& target,
                                       int64_t rank) {
  std::vector<StatePiece> pieces;
  for (const auto& [tensor, what] : tensors) {
    const size_t slash = tensor.find('/');
    Piece piece = share_of_rank(tensor.substr(slash + 1), what.shape, {target.ranks, target.expert_parallel}, rank);
    if (piece.numel() == 0 && !(piece.box.global_numel() == 0 && rank == 0)) continue;
    // One element stands for all: the parts are planned before their memory is taken.
    const at::Tensor values = at::empty({1}, at::TensorOptions().dtype(scalar_type_of(what.type))).expand({piece.numel()});
    pieces.push_back({tensor.substr(0, slash), std::move(piece), values});
  }
  return pieces;
}

void check_target(const std::map<std::string, CheckpointReader::Tensor>& tensors, const ReshardTarget& target) {
  if (target.ranks < 1) throw CheckpointError(concat("ranks (", target.ranks, ") must be at least 1"));
  if (target.expert_parallel < 1 || target.ranks % target.expert_parallel != 0) {
    throw CheckpointError(concat("expert_parallel (", target.expert_parallel, ") must divide the ranks (", target.ranks, ")"));
  }
  if (target.expert_parallel == 1) return;
  bool any = false;
  for (const auto& [tensor, what] : tensors) {
    if (!is_expert_tensor(tensor)) continue;
    any = true;
    if (what.shape.empty() || what.shape[0] % target.expert_parallel != 0) {
      throw CheckpointError(
          concat("expert_parallel (", target.expert_parallel, ") must divide the experts of ", tensor, ", ", shape_text(what.shape)));
    }
  }
  if (!any) throw CheckpointError(concat("expert_parallel (", target.expert_parallel, ") must be 1: the checkpoint has no experts"));
}

}  // namespace

void reshard_checkpoint(const fs::path& from, const fs::path& to, const ReshardTarget& target,
                        const std::function<void(const std::string& file, int64_t bytes)>& progress) {
  // Before memory and files are planned by what the manifest says.
  if (const std::string trouble = bytes_trouble(from, /*digests=*/false); !trouble.empty()) {
    throw CheckpointError(concat("checkpoint ", from.string(), ": ", trouble));
  }
  CheckpointReader reader(from);
  const auto tensors = reader.tensors();
  check_target(tensors, target);
  Manifest manifest = reader.manifest();
  manifest.ranks = target.ranks;
  manifest.expert_parallel = target.expert_parallel;
  manifest.files.clear();
  manifest.pieces.clear();
  const auto write_files = [&](ShardWriter& writer) {
    for (int64_t rank = 0; rank < target.ranks; ++rank) {
      size_t part = 0;
      for (std::vector<StatePiece>& pieces : plan_parts(pieces_of_rank(tensors, target, rank), target.part_bytes)) {
        for (StatePiece& state : pieces) state.values = at::empty({state.piece.numel()}, state.values.options());
        reader.fill(pieces);
        writer.add(shard_name(rank, target.ranks, part++), pieces);
        pieces.clear();  // or all of a rank would stay in memory to its end
      }
    }
  };
  write_checkpoint(to, std::move(manifest), write_files, [&](const StoredFile& file) {
    if (progress) progress(file.name, static_cast<int64_t>(file.bytes));
  });
}

}  // namespace pimoe
