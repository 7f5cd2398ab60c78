#include "moe/expert_placement.h"

namespace pimoe {

ExpertPlacement::ExpertPlacement(const std::vector<ExpertGroupConfig>& groups, int group_size, int group_rank) {
  for (const ExpertGroupConfig& group : groups) {
    const int64_t share = group.count / group_size;
    banks_.push_back({experts_, group.count, share, share * group_rank, local_});
    experts_ += group.count;
    local_ += share;
  }
  if (banks_.size() < 2) return;
  places_.resize(static_cast<size_t>(experts_));
  for (const Bank& bank : banks_) {
    for (int64_t expert = 0; expert < bank.experts; ++expert) {
      places_[static_cast<size_t>(bank.first + expert)] = expert / bank.local * local_ + bank.begin + expert % bank.local;
    }
  }
}

}  // namespace pimoe
