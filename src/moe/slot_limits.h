#pragma once

#include "moe/expert_placement.h"
#include "moe/moe_config.h"
#include "parallel/communicator.h"

#include <string>
#include <vector>

namespace pimoe {

/// Which slots of a batch travel, and in which round of the exchange: an expert's capacity and a rank's budget. No state of a call, and
/// nothing that is differentiated; capacity.h has the arithmetic.
class SlotLimits {
 public:
  /// @param name   of the layer, in messages
  /// @param group  the expert group; must outlive this
  SlotLimits(std::string name, const MoeConfig& config, ExpertPlacement placement, const Communicator& group);

  /// Slots that an expert takes from this rank; 0: all.
  /// @throws ShapeError if this rank has more than `most_tokens`, by which all ranks mean the same number
  int64_t capacity(int64_t tokens, int64_t most_tokens) const;

  /// @param experts  [T, K] int32, -1 for none  @param weights  [T, K] gates  @param capacity  as above
  /// @returns [T, K] the experts, with -1 where a slot is over its expert's capacity
  at::Tensor within_capacity(const at::Tensor& experts, const at::Tensor& weights, int64_t capacity) const;

  /// The rounds in which slots travel, so that no rank has more rows at a time than its budget. Every rank of the group calls.
  /// @returns [T, K] experts of each round, -1 for slots of other rounds and for those that are dropped
  /// @cost under a budget one collective on the expert group and one host synchronisation, else nothing
  std::vector<at::Tensor> within_budget(const at::Tensor& experts, const at::Tensor& weights) const;

 private:
  struct Traffic;
  /// Who sends how much to whom: the collective.
  Traffic traffic_of(const at::Tensor& experts) const;
  /// @returns [N] bool: the slots that stay when every source gives up the same share of what it has for a full rank
  at::Tensor within_share(const Traffic& traffic, const at::Tensor& weights, int64_t budget) const;

  std::string name_;
  MoeConfig config_;
  ExpertPlacement placement_;
  const Communicator& group_;
};

/// @returns the experts of the slots that stay, -1 elsewhere
at::Tensor kept_slots(const at::Tensor& experts, const at::Tensor& stays);

/// The round in which each slot travels. The rows for a rank stand in one order over all sources, in which each source's are spread evenly:
/// slot p of c stands at (2p + 1) / 2c, of equals the lower source's first. A round takes the next `budget` of them, never more.
/// @param to      [N] int32: the rank that each slot of this source goes to, -1 for none
/// @param counts  [P, P] int64 on the same device: slots of each source for each rank
/// @returns [N] int64, -1 for slots that go nowhere
at::Tensor rounds_of_slots(const at::Tensor& to, const at::Tensor& counts, int64_t source, int64_t budget);

}  // namespace pimoe
