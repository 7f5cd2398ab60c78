#pragma once

#include "train/optimizer.h"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pimoe {

/// Finds memory that changed by itself: a flipped bit in a weight, a master, a moment or a router's bias.
///
/// Every rank sums the bits of each weight that it has a copy of, and compares with the other copies': one flipped bit always changes a sum.
/// Of three copies and more the odd one is wrong; of two the owner's master tells, where it is kept apart from the weight (float16,
/// bfloat16), else both ranks are named. Masters and moments have no copy (ZeRO-1): they are compared with their own sums of when they were
/// written. Each update does that too (Optimizer::found_change); call `trouble` where one has found something.
///
/// Weights are gathered anew from their owners after each update: call `trouble` before it, when a step's products have used them.
/// @cost reads the compute weights, masters and moments once; a few small collectives
class ReplicaCheck {
 public:
  /// @param biases  of the routers by name; each rank has a copy of each
  ReplicaCheck(const ParameterBuckets& buckets, Optimizer& optimizer, std::map<std::string, at::Tensor> biases, const ProcessMesh& mesh);

  /// @returns "" if nothing changed, else each rank with its host, and which tensors of its differ; the same on every rank. Collective.
  std::string trouble() const;

 private:
  std::vector<std::string> odd_weights() const;
  std::vector<std::string> odd_biases() const;

  const ParameterBuckets& buckets_;
  Optimizer& optimizer_;
  std::map<std::string, at::Tensor> biases_;
  const ProcessMesh& mesh_;
};

}  // namespace pimoe
