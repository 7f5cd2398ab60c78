#include "moe/layout_dependence.h"

namespace pimoe {

std::vector<std::string> leave_out_what_layouts_change(MoeConfig& moe) {
  std::vector<std::string> notes;
  if (moe.capacity_factor > 0) {
    notes.push_back("model.moe.capacity_factor is left out (dropless here): it counts each rank's tokens and changes with the layout");
    moe.capacity_factor = 0;
    moe.capacity_pad = false;
  }
  if (moe.drops_above_budget()) {
    notes.push_back("model.moe.rank_overflow: drop is left out (chunk here): what a rank drops changes with the layout");
    moe.rank_overflow = RankOverflow::kChunk;
  }
  if (moe.balance.local_loss > 0) {
    notes.push_back("model.moe.balance.local_loss is left out: its unit is one rank's tokens and changes with the layout");
    moe.balance.local_loss = 0;
  }
  return notes;
}

bool changes_with_layout(const MoeConfig& moe) {
  MoeConfig copy = moe;
  return !leave_out_what_layouts_change(copy).empty();
}

}  // namespace pimoe
