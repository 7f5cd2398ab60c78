#include "interop/hf_checkpoint.h"

#include "base/errors.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "checkpoint/collective_save.h"
#include "checkpoint/local_save.h"
#include "checkpoint/shard_plan.h"
#include "checkpoint/training_state.h"
#include "parallel/agreement.h"

#include <ATen/ops/empty.h>

#include <exception>
#include <utility>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPartBytes = int64_t{1} << 28;

/// What one rank holds, without memory: files are planned before it is taken.
Snapshot planned_state(const HfImport& imported, const std::string& config, const RankLayout& layout, int64_t rank) {
  Snapshot state;
  state.config = config;
  state.numbers[state_number::kLossScale] = 1.0;
  for (const char* counter :
       {state_counter::kTokensSeen, state_counter::kNextSample, state_counter::kOptimizerSteps, state_counter::kSkippedInARow,
        state_counter::kNotFiniteInARow, state_counter::kLossScaleDynamic, state_counter::kLossScaleGoodSteps}) {
    state.counters[counter] = 0;
  }
  const auto add = [&](const char* kind, const std::string& name, const std::vector<int64_t>& shape) {
    Piece piece = share_of_rank(name, shape, layout, rank);
    if (piece.numel() == 0) return;
    const at::Tensor values = at::empty({piece.numel()}, at::TensorOptions().dtype(imported.master_dtype()).device(at::kMeta));
    state.pieces.push_back({kind, std::move(piece), values});
  };
  // Masters first: who wants the weights alone reads a third of the files.
  for (const char* kind : {state_kind::kMaster, state_kind::kFirstMoment, state_kind::kSecondMoment}) {
    for (const WeightPlan& plan : imported.plans()) {
      if (!plan.is_state) add(kind, plan.name, plan.shape);
    }
  }
  for (const std::string& router : imported.model().router_names()) {
    add(state_kind::kState, router + ".bias", {imported.model().moe.experts});
  }
  return state;
}

int64_t bytes_of(const std::vector<StatePiece>& pieces) {
  int64_t bytes = 0;
  for (const StatePiece& state : pieces) bytes += state.piece.numel() * static_cast<int64_t>(state.values.element_size());
  return bytes;
}

/// Gives the pieces of a file their memory and values. What is wrong with the model is no error of saving: it is kept for who catches that.
class Filler {
 public:
  Filler(const HfImport& imported, uint64_t seed) : imported_(imported), draw_{seed, imported.model().initial_deviation} {}

  void operator()(std::vector<StatePiece>& pieces) try {
    for (StatePiece& state : pieces) state.values = at::empty({state.piece.numel()}, state.values.options().device(at::kCPU));
    imported_.fill(pieces, draw_);
  } catch (const DataError&) {  // the contract
    of_data_ = std::current_exception();
    throw;
  }
  /// @throws what it met
  void rethrow() const {
    if (of_data_) std::rethrow_exception(of_data_);
  }

 private:
  const HfImport& imported_;
  HfDraw draw_;
  std::exception_ptr of_data_;
};

}  // namespace

void write_imported(const HfImport& imported, const fs::path& checkpoint, const std::string& config, uint64_t seed, Logger& log) {
  const Snapshot state = planned_state(imported, config, {}, 0);
  Manifest manifest;
  manifest.ranks = 1;
  manifest.expert_parallel = 1;
  manifest.config = config;
  manifest.numbers = state.numbers;
  manifest.counters = state.counters;
  const WorkProgress progress("weights", WorkUnit::kBytes, log, bytes_of(state.pieces));
  Filler fill(imported, seed);
  try {
    write_checkpoint(checkpoint, std::move(manifest), [&](ShardWriter& writer) {
      size_t part = 0;
      for (std::vector<StatePiece>& pieces : plan_parts(state.pieces, kPartBytes)) {
        fill(pieces);
        writer.add(shard_name(0, 1, part++), pieces);
        pieces.clear();  // or all parts would stay in memory to the end
      }
    });
  } catch (const SaveError&) {  // likewise
    fill.rethrow();
    throw;
  }
}

void write_imported(const HfImport& imported, const fs::path& folder, const std::string& config, uint64_t seed, Logger& log,
                    const HostCommunicator& ranks, int64_t expert_parallel) {
  const Snapshot state = planned_state(imported, config, {ranks.size(), expert_parallel}, ranks.rank());
  const WorkProgress progress(concat("weights of rank 0 of ", ranks.size()), WorkUnit::kBytes, log, bytes_of(state.pieces));
  Filler fill(imported, seed);
  CollectiveSave save(folder, state, ranks, expert_parallel, kPartBytes, [&](std::vector<StatePiece>& pieces) { fill(pieces); });
  try {
    save.run();
  } catch (const SaveError&) {  // likewise, and the same on every rank
    do_together(ranks, [&] { fill.rethrow(); });
    throw;
  }
}

}  // namespace pimoe
