#include "moe/log_sum_softmax.h"

#include "parallel/device.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softmax.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

const at::TensorOptions kDoubles = at::TensorOptions().dtype(at::kDouble);

double largest_difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

/// @returns d(sum of the results times these weights) / d(logits), where the weights are defined
at::Tensor gradient(const at::Tensor& logits, bool by_one, const at::Tensor& of_scores, const at::Tensor& of_log_sum) {
  const at::Tensor leaf = logits.detach().clone().requires_grad_(true);
  const auto [scores, log_sum] =
      by_one ? log_sum_softmax(leaf) : std::pair<at::Tensor, at::Tensor>(at::softmax(leaf, -1), at::logsumexp(leaf, -1));
  at::Tensor loss = leaf.sum() * 0;
  if (of_scores.defined()) loss = loss + (scores * of_scores).sum();
  if (of_log_sum.defined()) loss = loss + (log_sum.square() * of_log_sum).sum();
  loss.backward();
  return leaf.grad();
}

TEST(LogSumSoftmax, HasTheResultsAndGradientsOfItsTwoParts) {
  at::manual_seed(7);
  const at::Tensor logits = 3 * at::randn({6, 5}, kDoubles);
  const at::Tensor of_scores = at::randn({6, 5}, kDoubles);
  const at::Tensor of_log_sum = at::randn({6}, kDoubles);
  const auto [scores, log_sum] = log_sum_softmax(logits);
  EXPECT_LT(largest_difference(scores, at::softmax(logits, -1)), 1e-15);
  EXPECT_LT(largest_difference(log_sum, at::logsumexp(logits, -1)), 1e-15);
  for (const bool first : {true, false}) {
    for (const bool second : {true, false}) {
      const at::Tensor one = first ? of_scores : at::Tensor();
      const at::Tensor two = second ? of_log_sum : at::Tensor();
      EXPECT_LT(largest_difference(gradient(logits, true, one, two), gradient(logits, false, one, two)), 1e-14) << first << second;
    }
  }
}

TEST(LogSumSoftmax, KeepsTheScoresAlone) {
  const c10::Device cpu(c10::DeviceType::CPU);
  const at::Tensor input = at::randn({4096, 256}).requires_grad_(true);
  const int64_t before = memory_use(cpu).now_bytes;
  const auto [scores, log_sum] = log_sum_softmax(input * 2);
  EXPECT_LT(memory_use(cpu).now_bytes - before, 1.2 * static_cast<double>(input.nbytes()));
  (scores.select(1, 0).sum() + log_sum.sum()).backward();  // what is kept lives until here
}

}  // namespace
}  // namespace pimoe
