#include "ops/softmax_top_k.h"

#include "base/errors.h"
#include "ops/op_checks.h"
#include "ops/top_k.h"

#include <array>

namespace pimoe::checks {
namespace softmax_top_k_tests {

constexpr double kTiny = 1e-20;

/// The same by operators and autograd, on the host in float64; the choice is given.
struct Reference {
  at::Tensor scores, log_sum, gates;
};
Reference reference(const at::Tensor& logits, const at::Tensor& chosen, bool renormalize) {
  const at::Tensor scores = at::softmax(logits, -1);
  at::Tensor gates = scores.gather(1, chosen.to(at::kLong));
  if (renormalize) gates = gates / gates.sum(-1, true).clamp_min(kTiny);
  return {scores, at::logsumexp(logits, -1), gates};
}

void expect_near(const at::Tensor& found, const at::Tensor& expected, double tolerance, const char* what) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  if (found.numel() == 0) return;
  EXPECT_LE((on_host(found) - expected.detach()).abs().max().item<double>(), tolerance * (1 + expected.detach().abs().max().item<double>()))
      << what;
}

// Which of the three gradients come is a bit mask: scores, log_sum, gates. Those of the scores also as one row for all tokens, which is how a sum's come.
TEST(SoftmaxTopK, EqualsTheOperatorsForwardAndBackward) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const double tolerance = dtype == at::kDouble ? 1e-12 : 3e-6;
    for (const auto& [tokens, experts, k] : std::vector<std::array<int64_t, 3>>{{1, 1, 1},
                                                                                {0, 4, 2},
                                                                                {37, 8, 2},
                                                                                {5, 31, 31},
                                                                                {33, 32, 32},
                                                                                {70, 64, 8},
                                                                                {9, 100, 6},
                                                                                {40, 128, 8},
                                                                                {7, 250, 9},
                                                                                {3, 512, 22},
                                                                                {4, 513, 3},
                                                                                {2, 600, 40}}) {
      for (const bool renormalize : {false, true}) {
        for (int mask = 1; mask < 8; ++mask) {
          SCOPED_TRACE(concat(dtype, " T ", tokens, " E ", experts, " K ", k, renormalize ? " renormalized" : "", " gradients ", mask));
          const at::Tensor values = (random.normal({tokens, experts}) * 3).to(dtype);
          const at::Tensor bias = (random.normal({experts}) * 0.1).to(dtype);
          at::Tensor logits = on_device(values.clone(), dtype).set_requires_grad(true);
          const SoftmaxTopK found = softmax_top_k(
              logits, {.bias = on_device(bias, dtype), .choices = k, .renormalize = renormalize, .tiny = kTiny, .chosen = {}});
          EXPECT_EQ(found.chosen.scalar_type(), at::kInt);
          EXPECT_TRUE(found.chosen.equal(top_k(found.scores.detach() + on_device(bias, dtype), k)));
          at::Tensor exact = values.clone().to(at::kDouble).set_requires_grad(true);
          const Reference expected = reference(exact, found.chosen.cpu(), renormalize);
          expect_near(found.scores, expected.scores, tolerance, "scores");
          expect_near(found.log_sum, expected.log_sum, tolerance, "log_sum");
          expect_near(found.gates, expected.gates, tolerance, "gates");

          const at::Tensor to_scores =
              random.normal(mask % 2 == 1 && experts % 2 == 0 ? std::vector<int64_t>{1, experts} : std::vector<int64_t>{tokens, experts});
          const at::Tensor to_log_sum = random.normal({tokens}), to_gates = random.normal({tokens, k});
          const auto weighed = [&](const at::Tensor& of, const at::Tensor& by) {
            return (of * by.to(of.device(), of.scalar_type())).sum();
          };
          const auto loss = [&](const at::Tensor& scores, const at::Tensor& log_sum, const at::Tensor& gates) {
            at::Tensor sum = at::zeros({}, scores.options().requires_grad(false));
            if ((mask & 1) != 0) sum = sum + (to_scores.size(0) == 1 ? weighed(scores.sum(0), to_scores[0]) : weighed(scores, to_scores));
            if ((mask & 2) != 0) sum = sum + weighed(log_sum, to_log_sum);
            if ((mask & 4) != 0) sum = sum + weighed(gates, to_gates);
            return sum;
          };
          loss(found.scores, found.log_sum, found.gates).backward();
          loss(expected.scores, expected.log_sum, expected.gates).backward();
          expect_near(logits.grad(), exact.grad(), 10 * tolerance, "gradient");

          at::Tensor again = on_device(values.clone(), dtype).set_requires_grad(true);
          const SoftmaxTopK taken = softmax_top_k(
              again, {.bias = on_device(bias, dtype), .choices = k, .renormalize = renormalize, .tiny = kTiny, .chosen = found.chosen});
          EXPECT_TRUE(taken.gates.equal(found.gates));
          loss(taken.scores, taken.log_sum, taken.gates).backward();
          EXPECT_TRUE(again.grad().equal(logits.grad()));
        }
      }
    }
  }
}

TEST(SoftmaxTopK, TheBiasMovesTheChoiceAlone) {
  const at::Tensor logits = on_device(at::zeros({1, 4}, at::kDouble), at::kFloat);
  const at::Tensor bias = on_device(at::tensor({0.0, 0.0, 1.0, 0.5}, at::kDouble), at::kFloat);
  const SoftmaxTopK found = softmax_top_k(logits, {.bias = bias, .choices = 2, .renormalize = true, .tiny = kTiny, .chosen = {}});
  EXPECT_EQ(int_values(found.chosen), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(on_host(found.gates).select(1, 0).item<double>(), 0.5);
}

// Chosen scores that underflow: their gates are 0 over `tiny`, and nothing is divided by zero.
TEST(SoftmaxTopK, GatesOfVanishingScoresStayFinite) {
  at::Tensor logits = on_device(at::tensor({0.0, -1000.0, -1000.0}, at::kDouble).view({1, 3}), at::kFloat).set_requires_grad(true);
  const at::Tensor bias = on_device(at::tensor({-10.0, 0.0, 0.0}, at::kDouble), at::kFloat);
  const SoftmaxTopK found = softmax_top_k(logits, {.bias = bias, .choices = 2, .renormalize = true, .tiny = kTiny, .chosen = {}});
  EXPECT_EQ(int_values(found.chosen), (std::vector<int64_t>{1, 2}));
  found.gates.sum().backward();
  EXPECT_EQ(on_host(found.gates).abs().sum().item<double>(), 0.0);
  EXPECT_EQ(on_host(logits.grad()).abs().sum().item<double>(), 0.0);
}

TEST(SoftmaxTopK, RefusesWhatDoesNotFit) {
  const at::Tensor logits = on_device(at::zeros({2, 3}, at::kDouble), at::kFloat), bias = logits[0].contiguous();
  const auto terms = [&](int64_t choices) {
    return SoftmaxTopKTerms{.bias = bias, .choices = choices, .renormalize = false, .tiny = kTiny, .chosen = {}};
  };
  EXPECT_THROW(softmax_top_k(logits, terms(0)), ShapeError);
  EXPECT_THROW(softmax_top_k(logits, terms(4)), ShapeError);
  EXPECT_THROW(softmax_top_k(logits.to(at::kBFloat16), terms(1)), ShapeError);
  SoftmaxTopKTerms short_bias = terms(1);
  short_bias.bias = bias.narrow(0, 0, 2);
  EXPECT_THROW(softmax_top_k(logits, short_bias), ShapeError);
  SoftmaxTopKTerms wrong = terms(1);
  wrong.chosen = on_device(at::zeros({2, 2}, at::kDouble), at::kInt);
  EXPECT_THROW(softmax_top_k(logits, wrong), ShapeError);
}

}  // namespace softmax_top_k_tests
}  // namespace pimoe::checks
