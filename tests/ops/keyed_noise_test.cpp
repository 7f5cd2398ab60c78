#include "ops/keyed_noise.h"

#include "base/random.h"
#include "ops/op_checks.h"

namespace pimoe::checks {
namespace keyed_noise_tests {

TEST(KeyedNoise, IsTheCountersNumberAtEachIndex) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const at::Tensor noise = keyed_noise(99, 1000, 0.25, {7, 300}, on_device(at::empty({0}), dtype).options()).cpu().view({-1});
    for (int64_t i = 0; i < noise.numel(); ++i) {
      const double expected = 1.0 + 0.25 * (2.0 * random_uniform(99, static_cast<uint64_t>(1000 + i)) - 1.0);
      ASSERT_EQ(noise[i].item<double>(), dtype == at::kFloat ? static_cast<double>(static_cast<float>(expected)) : expected) << i;
    }
  }
}

TEST(KeyedNoise, StaysWithinItsAmplitudeAroundOne) {
  const at::Tensor noise = keyed_noise(7, 0, 0.01, {20000}, on_device(at::empty({0}), at::kFloat).options());
  EXPECT_GE(noise.min().item<double>(), 0.99 - 1e-6);
  EXPECT_LE(noise.max().item<double>(), 1.01 + 1e-6);
  EXPECT_NEAR(noise.mean().item<double>(), 1.0, 3e-4);
  EXPECT_EQ(keyed_noise(7, 0, 0.01, {0, 4}, on_device(at::empty({0}), at::kFloat).options()).numel(), 0);
}

}  // namespace keyed_noise_tests
}  // namespace pimoe::checks
