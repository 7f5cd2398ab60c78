#pragma once

#include <cstdint>

namespace pimoe {

/// Which rank of the expert group holds which expert: consecutive experts stand together, the same number on each rank.
class ExpertPlacement {
 public:
  /// REQUIRES experts % group_size == 0 (ProcessMesh refuses other layouts).
  ExpertPlacement(int64_t experts, int group_size, int group_rank)
      : experts_(experts), local_(experts / group_size), first_(local_ * group_rank) {}

  int64_t experts() const { return experts_; }    ///< E
  int64_t local() const { return local_; }        ///< L
  int64_t first_local() const { return first_; }  ///< this rank holds [first_local, first_local + local)

 private:
  int64_t experts_;
  int64_t local_;
  int64_t first_;
};

}  // namespace pimoe
