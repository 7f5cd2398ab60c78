#include "support/ranks.h"

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

class SentBytes : public testing::Test {
 protected:
  /// @returns what `collective` adds
  template <class Collective>
  int64_t of(const Collective& collective) const {
    const int64_t before = world_->sent_bytes();
    collective();
    return world_->sent_bytes() - before;
  }

  std::unique_ptr<HostCommunicator> world_ = test_session().world();
  int64_t ranks_ = world_->size();
};

TEST_F(SentBytes, OfReductionsAndGathersAreThoseOfARing) {
  at::Tensor whole = at::ones({12 * ranks_}, at::kFloat);  // 48 bytes for each rank
  at::Tensor part = at::ones({12}, at::kFloat);
  EXPECT_EQ(of([&] { world_->all_reduce(whole); }), 2 * 48 * (ranks_ - 1));
  EXPECT_EQ(of([&] { world_->reduce_scatter(part, whole); }), 48 * (ranks_ - 1));
  EXPECT_EQ(of([&] { world_->all_gather(whole, part); }), 48 * (ranks_ - 1));
  EXPECT_EQ(of([&] { world_->broadcast(whole, 0); }), 48 * (ranks_ - 1));
}

TEST_F(SentBytes, OfAnExchangeAreTheRowsForOthers) {
  // A row to rank 0, two to rank 1, and so on, of five bfloat16 each: rank r keeps r + 1 of its own.
  const auto here = static_cast<int64_t>(world_->rank());
  std::vector<int64_t> sends;
  for (int64_t peer = 0; peer < ranks_; ++peer) sends.push_back(peer + 1);
  const std::vector<int64_t> receives(static_cast<size_t>(ranks_), here + 1);
  const int64_t all = ranks_ * (ranks_ + 1) / 2;
  const at::Tensor rows = at::ones({all, 5}, at::kBFloat16);
  EXPECT_EQ(of([&] { world_->all_to_all(rows, sends, receives); }), ranks_ == 1 ? 0 : (all - (here + 1)) * 5 * 2);
}

TEST_F(SentBytes, TravelInAMessageToEachOtherRankOrAsOftenAsARingPassesThem) {
  at::Tensor whole = at::ones({12 * ranks_}, at::kFloat);
  at::Tensor part = at::ones({12}, at::kFloat);
  const std::vector<int64_t> twelve(static_cast<size_t>(ranks_), 12);
  const int64_t before = world_->sent_messages();
  world_->all_reduce(whole);
  EXPECT_EQ(world_->sent_messages() - before, 2 * (ranks_ - 1));
  world_->reduce_scatter(part, whole);
  world_->all_gather(whole, part);
  world_->broadcast(whole, 0);
  world_->all_to_all(whole, twelve, twelve);
  EXPECT_EQ(world_->sent_messages() - before, 6 * (ranks_ - 1));
  EXPECT_EQ(world_->collectives(), ranks_ == 1 ? 0 : 5);
}

TEST_F(SentBytes, AreEachGroupsOwn) {
  const auto mesh = world_mesh(cpu_mesh());
  at::Tensor numbers = at::ones({4}, at::kFloat);
  const int64_t before = mesh->gradient_group(Group::kDense).sent_bytes();
  mesh->group(Group::kDense).all_reduce(numbers);
  EXPECT_EQ(mesh->gradient_group(Group::kDense).sent_bytes(), before);
  EXPECT_EQ(mesh->group(Group::kDense).sent_bytes(), 2 * 16 * (ranks_ - 1) / ranks_);
}

}  // namespace
}  // namespace pimoe
