#include "moe/expert_placement.h"

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {

ExpertPlacement::ExpertPlacement(const std::vector<ExpertGroupConfig>& groups, int group_size, int group_rank) {
  for (const ExpertGroupConfig& group : groups) {
    if (const std::string trouble = spread_trouble(group.count, group_size); !trouble.empty()) {
      throw ConfigError(concat(group.name.empty() ? "model.moe.experts " : concat("model.moe.groups, ", group.name, ": count "), trouble));
    }
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
