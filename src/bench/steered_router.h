#pragma once

#include "moe/router.h"
#include "parallel/communicator.h"

#include <cstdint>
#include <vector>

namespace pimoe {

/// Slots of each expert by Zipf's law: expert i has the share 1 / (i + 1) of all, but no more than every token once; what is above goes to the others.
/// @param tokens  of all ranks  @param choices  K, at most `experts`  @returns [E], with the sum tokens * choices
std::vector<double> zipf_loads(int64_t tokens, int64_t experts, int64_t choices);

/// Moves the loss-free bias until the experts' loads over the group's tokens are near `wanted`: the router decides as in training, scores and all.
/// REQUIRES a router that a bias steers. Collective over the group.
/// @param tokens [T, D]  @param wanted  [E]  @cost up to 200 forward passes of the router
void steer(Router& router, const at::Tensor& tokens, const BatchContext& context, const std::vector<double>& wanted,
           const Communicator& group);

/// @returns slots of each expert over the group's tokens. Collective. @param experts  [T, K] as the router chose
std::vector<double> group_loads(const at::Tensor& experts, int64_t count, const Communicator& group);

}  // namespace pimoe
