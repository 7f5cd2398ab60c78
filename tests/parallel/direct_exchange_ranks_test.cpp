#include "base/errors.h"
#include "parallel/direct_exchange_check.h"
#include "support/ranks.h"

namespace pimoe {
namespace {

TEST(DirectExchange, EqualsTheLoopForRaggedEmptyAndSkewedRows) {
  const auto group = test_session().world();
  DirectExchange* direct = group->direct_exchange(at::kCPU);
  if (group->size() == 1) {
    EXPECT_EQ(direct, nullptr);
    return;
  }
  ASSERT_NE(direct, nullptr);
  EXPECT_EQ(direct, group->direct_exchange(at::kCPU)) << "made once";
  std::mt19937 random(11);
  for (int round = 0; round < 16; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      expect_direct_exchange_equals_loop(*group, *direct, random, dtype, at::kCPU);
    }
  }
}

TEST(DirectExchange, RefusesWhatDoesNotFitBeforeAnybodyWaits) {
  const auto group = test_session().world();
  if (group->size() == 1) return;
  DirectExchange& direct = *group->direct_exchange(at::kCPU);
  const at::Tensor wanted = at::zeros({group->size(), 3, 2}, at::kInt);
  EXPECT_THROW(direct.spread(at::zeros({4, 8}), wanted), ShapeError) << "more rows than M";
  EXPECT_THROW(direct.spread(at::zeros({3, 3}), wanted), ShapeError) << "12 bytes";
  EXPECT_THROW(direct.spread(at::zeros({3, 8}), wanted.to(at::kLong)), ShapeError);
  EXPECT_THROW(direct.sum_back(at::zeros({3, 8}), wanted, 3), ShapeError) << "not P M rows";
}

}  // namespace
}  // namespace pimoe
