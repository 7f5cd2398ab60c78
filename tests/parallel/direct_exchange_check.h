#pragma once

#include "parallel/communicator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

namespace pimoe {

/// Random rows to random ranks and back, through `group`, against a loop over what every rank has. Shapes are ragged, and the same on every rank.
/// @param random  of the same seed on every rank
inline void expect_direct_exchange_equals_loop(const Communicator& group, DirectExchange& direct, std::mt19937& random,
                                               at::ScalarType dtype, c10::Device device) {
  const auto below = [&](int64_t limit) { return static_cast<int64_t>(random() % static_cast<uint64_t>(limit)); };
  const int64_t ranks = group.size(), me = group.rank();
  const int64_t most = 1 + below(random() % 4 == 0 ? 3000 : 50), choices = 1 + below(random() % 8 == 0 ? 40 : 4);
  const int64_t width = 16 * (1 + below(random() % 4 == 0 ? 200 : 8));
  std::vector<int64_t> counts;
  for (int64_t rank = 0; rank < ranks; ++rank) counts.push_back(random() % 5 == 0 ? 0 : below(most + 1));
  const auto generator = at::detail::createCPUGenerator(random());
  // On the host, equal on every rank: all rows, where they go, and what each rank makes of each.
  const at::Tensor rows = at::randn({ranks, most, width}, generator, at::kFloat).to(dtype);
  const at::Tensor made = at::randn({ranks, ranks, most, width}, generator, at::kFloat).to(dtype);  // by rank p, of row m of rank s
  at::Tensor wanted = at::randint(-1, ranks, {ranks, most, choices}, generator, at::kInt);
  if (random() % 4 == 0) wanted.clamp_max_(0);  // all to one
  for (int64_t rank = 0; rank < ranks; ++rank) wanted[rank].slice(0, counts[rank]).fill_(-1);

  const at::Tensor on_device = wanted.to(device);
  const at::Tensor arrived = direct.spread(rows[me].slice(0, 0, counts[me]).contiguous().to(device), on_device).cpu();
  const at::Tensor here = (wanted == me).any(2);  // [P, M]
  EXPECT_TRUE(at::equal(arrived.view({ranks, most, width}).masked_select(here.unsqueeze(2)), rows.masked_select(here.unsqueeze(2))));

  at::Tensor results = made[me].clone();
  results.masked_fill_(here.logical_not().unsqueeze(2), std::numeric_limits<double>::quiet_NaN());  // nobody may look there
  const at::Tensor sums = direct.sum_back(results.view({ranks * most, width}).to(device), on_device, counts[me]).cpu();
  at::Tensor expected = at::zeros({counts[me], width}, dtype == at::kDouble ? at::kDouble : at::kFloat);
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const at::Tensor went = (wanted[me].slice(0, 0, counts[me]) == rank).any(1);
    expected += made[rank][me].slice(0, 0, counts[me]).to(expected.scalar_type()) * went.unsqueeze(1);
  }
  EXPECT_TRUE(at::equal(sums, expected.to(dtype)));
}

}  // namespace pimoe
