#include "ops/kept_layouts.h"

#include "ops/grouped_product.h"
#include "ops/op_checks.h"
#include "ops/tile_product.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

using checks::Random;

/// What products ask for of a weight [G, B, A]: its matrices turned.
bool is_kept(const at::Tensor& weights) {
  const at::Tensor* const kept = KeptLayouts::find(weights.transpose(1, 2));
  return kept != nullptr && kept->defined();
}

TEST(KeptLayouts, FindWhatLiesInAWeightsStorageWhileTheyAreInUse) {
  const at::Tensor weight = at::zeros({4, 6});
  const at::Tensor other = at::zeros({4, 6});
  KeptLayouts layouts({weight});
  EXPECT_EQ(KeptLayouts::find(weight), nullptr) << "nothing is in use";
  {
    const KeptLayouts::Use use(layouts);
    at::Tensor* const place = KeptLayouts::find(weight);
    ASSERT_NE(place, nullptr);
    EXPECT_FALSE(place->defined());
    EXPECT_EQ(KeptLayouts::find(weight.view({4, 6})), place) << "the same numbers in the same order";
    EXPECT_NE(KeptLayouts::find(weight.t()), place) << "another order of them";
    EXPECT_NE(KeptLayouts::find(weight.slice(0, 0, 2)), place) << "some of them";
    EXPECT_EQ(KeptLayouts::find(other), nullptr) << "no weight";
    EXPECT_EQ(KeptLayouts::find(weight.clone()), nullptr);
    KeptLayouts of_other({other});
    {
      const KeptLayouts::Use inner(of_other);
      EXPECT_EQ(KeptLayouts::find(weight), nullptr);
      EXPECT_NE(KeptLayouts::find(other), nullptr);
    }
    EXPECT_EQ(KeptLayouts::find(weight), place) << "those before are in use again";
  }
  EXPECT_EQ(KeptLayouts::find(weight), nullptr);
}

// Groups of 3, 0, 70 and 1 rows, then two rows that no group has; sizes that fill no tile; and no row at all.
TEST(KeptLayouts, ProductsHaveTheSameBitsWithAndWithoutAndEveryTime) {
  Random random;
  SCOPED_TRACE(random.trace());
  const at::NoGradGuard no_gradients;
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat, at::kDouble}) {
    for (const int64_t rows : {76, 0}) {
      const at::Tensor left = random.normal({rows, 38}).to(dtype);
      const at::Tensor weights = random.normal({4, 270, 38}).to(dtype);
      const at::Tensor ends = checks::int_tensor(rows == 0 ? std::vector<int32_t>{0, 0, 0, 0} : std::vector<int32_t>{3, 3, 73, 74});
      const auto products = [&] {
        return std::vector<at::Tensor>{grouped_linear_layer(left, weights, ends).slice(0, 0, rows == 0 ? 0 : 74),
                                       linear_layer(left, weights[0]), score_product(left, weights[1])};
      };
      const std::vector<at::Tensor> without = products();
      KeptLayouts layouts({weights});
      const KeptLayouts::Use use(layouts);
      for (int time = 0; time < 3; ++time) {
        const std::vector<at::Tensor> with = products();
        for (size_t i = 0; i < with.size(); ++i) EXPECT_TRUE(at::equal(with[i], without[i])) << dtype << ", product " << i;
      }
      const at::Tensor plain = at::matmul(left.to(at::kDouble), weights[1].to(at::kDouble).t());
      EXPECT_TRUE(at::allclose(without[2].to(at::kDouble), plain, 1e-2, dtype == at::kBFloat16 ? 0.2 : 1e-4)) << dtype;
    }
  }
}

TEST(KeptLayouts, KeepTheLayoutsOfWeightsAloneAndOnlyWhereProductsGoByTiles) {
  const at::NoGradGuard no_gradients;
  const at::Tensor rows = at::ones({5, 64}, at::kBFloat16);
  const at::Tensor weights = at::ones({2, 32, 64}, at::kBFloat16);
  const at::Tensor others = at::ones({2, 32, 64}, at::kBFloat16);
  const at::Tensor ends = checks::int_tensor({2, 5});
  KeptLayouts layouts({weights});
  const KeptLayouts::Use use(layouts);
  grouped_linear_layer(rows, weights, ends);
  grouped_linear_layer(rows, others, ends);
  EXPECT_EQ(is_kept(weights), has_tile_product());
  EXPECT_FALSE(is_kept(others));
  if (!has_tile_product()) return;
  const void* const first = KeptLayouts::find(weights.transpose(1, 2))->const_data_ptr();
  grouped_linear_layer(rows, weights, ends);
  EXPECT_EQ(KeptLayouts::find(weights.transpose(1, 2))->const_data_ptr(), first) << "laid out once";
  // That it is used, and not made again: what is kept decides what comes out.
  KeptLayouts::find(weights.transpose(1, 2))->zero_();
  EXPECT_EQ(grouped_linear_layer(rows, weights, ends).abs().max().item<double>(), 0.0);
}

}  // namespace
}  // namespace pimoe
