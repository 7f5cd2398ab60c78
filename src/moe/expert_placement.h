#pragma once

#include "moe/moe_config.h"

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

namespace pimoe {

/// Which rank of the expert group holds which expert: the one place that knows.
///
/// Experts are numbered group by group (moe_config.h). Each group is spread evenly: of a group of n experts rank r of P holds the
/// neighbours [r n/P, (r+1) n/P). A rank's experts are numbered in the same order, so that a *place* (rank, then local expert) sorts slots
/// by rank and bank. With one group a place is the expert itself.
class ExpertPlacement {
 public:
  /// The experts of one shape.
  struct Bank {
    int64_t first = 0;        ///< global number of the group's first expert
    int64_t experts = 0;      ///< of the group
    int64_t local = 0;        ///< this rank's
    int64_t first_local = 0;  ///< within the group, of this rank's first
    int64_t begin = 0;        ///< within this rank's experts, of the bank's first
  };

  /// @param device  of the tensors of experts that are asked about
  /// @throws ConfigError unless every group's count is divisible by group_size
  ExpertPlacement(const std::vector<ExpertGroupConfig>& groups, int group_size, int group_rank, c10::Device device = at::kCPU);

  int64_t experts() const { return experts_; }  ///< E
  int64_t local() const { return local_; }      ///< L
  const std::vector<Bank>& banks() const { return banks_; }
  /// [E] the place of each expert; empty where places are the experts themselves.
  const std::vector<int64_t>& places() const { return places_; }

  /// @param experts  int32 of any shape, -1 for none
  /// @returns the place of each, int32, -1 for none
  at::Tensor places_of(const at::Tensor& experts) const;
  /// @returns the rank of the expert group that holds each, likewise
  at::Tensor ranks_of(const at::Tensor& experts) const;

 private:
  int64_t experts_ = 0;
  int64_t local_ = 0;
  std::vector<Bank> banks_;
  std::vector<int64_t> places_;
  at::Tensor place_of_;  ///< places() on the device; undefined where that is empty
};

}  // namespace pimoe
