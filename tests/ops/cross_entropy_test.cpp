#include "ops/cross_entropy.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <ATen/core/grad_mode.h>

#include <limits>

namespace pimoe::checks {
namespace cross_entropy_tests {

at::Tensor targets_of(const std::vector<int32_t>& values) { return int_tensor(values).to(at::kLong); }

Operation loss_for(const std::vector<int32_t>& targets) {
  return [=](const std::vector<at::Tensor>& inputs) { return linear_cross_entropy(inputs[0], inputs[1], targets_of(targets)); };
}

double reference(const at::Tensor& hidden, const at::Tensor& weight, const std::vector<int32_t>& targets) {
  double sum = 0;
  for (int64_t t = 0; t < hidden.size(0); ++t) {
    const int32_t target = targets[static_cast<size_t>(t)];
    if (target < 0) continue;
    double exponentials = 0;
    double target_logit = 0;
    for (int64_t v = 0; v < weight.size(0); ++v) {
      double logit = 0;
      for (int64_t d = 0; d < hidden.size(1); ++d) {
        logit += hidden.const_data_ptr<double>()[t * hidden.size(1) + d] * weight.const_data_ptr<double>()[v * hidden.size(1) + d];
      }
      exponentials += std::exp(logit);
      if (v == target) target_logit = logit;
    }
    sum += std::log(exponentials) - target_logit;
  }
  return sum;
}

TEST(LinearCrossEntropy, MatchesPlainLoopsAtAnyShapeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const auto& [positions, width, vocabulary] : {std::tuple<int, int, int>{1, 1, 1}, {5, 3, 7}, {9, 16, 40}, {40, 8, 700}}) {
      SCOPED_TRACE(concat(dtype, " T ", positions, " D ", width, " V ", vocabulary));
      const std::vector<int32_t> targets = random.integers(positions, -1, vocabulary);
      const at::Tensor hidden = on_device(random.normal({positions, width}), dtype);
      const at::Tensor weight = on_device(random.normal({vocabulary, width}) / std::sqrt(width), dtype);
      const at::Tensor loss = loss_for(targets)({hidden, weight});
      EXPECT_EQ(loss.dim(), 0);
      EXPECT_EQ(loss.scalar_type(), arithmetic_of(dtype));
      const double expected = reference(on_host(hidden), on_host(weight), targets);
      EXPECT_NEAR(loss.item<double>(), expected, tolerance_of(dtype) * positions);
    }
  }
}

TEST(LinearCrossEntropy, GradientsAreThoseOfTheFormula) {
  Random random;
  SCOPED_TRACE(random.trace());
  check_gradients(loss_for({3, -1, 0, 6, 2}), {{random.normal({5, 3})}, {random.normal({7, 3})}}, random);
  check_gradients(loss_for({19, 8}), {{random.normal({2, 8})}, {random.normal({20, 8})}}, random);
}

// On a GPU a row is held by one block, by a cluster of 2, 4 or 8, or, the longest, by none and read twice; in packs or, at an odd vocabulary, number
// by number.
TEST(LinearCrossEntropy, MatchesSoftmaxAtVocabulariesOfAnyLength) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const int64_t vocabulary : {257, 9999, 20000, 30001, 50304, 151936, 500000, 500001}) {
    const int64_t positions = vocabulary < 100000 ? 5 : 2;
    const int64_t width = 2;
    std::vector<int32_t> targets = random.integers(positions, 0, static_cast<int32_t>(vocabulary));
    targets[0] = static_cast<int32_t>(vocabulary) - 1;
    if (positions > 2) targets[2] = -1;
    const at::Tensor some_hidden = random.normal({positions, width}) / 2;
    const at::Tensor some_weight = random.normal({vocabulary, width}) / 2;
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(concat(dtype, " V ", vocabulary));
      const std::vector<at::Tensor> inputs = leaves({{some_hidden}, {some_weight}}, dtype);
      const at::Tensor hidden = on_host(inputs[0]);
      const at::Tensor weight = on_host(inputs[1]);
      at::Tensor grad_logits = at::softmax(at::mm(hidden, weight.t()), 1);
      double expected = 0;
      for (int64_t t = 0; t < positions; ++t) {
        const int32_t target = targets[static_cast<size_t>(t)];
        at::Tensor row = grad_logits[t];
        if (target >= 0) expected -= std::log(row[target].item<double>());
        target < 0 ? row.zero_() : row[target].sub_(1);
      }
      const double tolerance = 2 * tolerance_of(dtype);
      const at::Tensor loss = loss_for(targets)(inputs);
      EXPECT_NEAR(loss.item<double>(), expected, tolerance * expected);
      loss.backward();
      expect_close(inputs[0].grad(), at::mm(grad_logits, weight), tolerance, 4.0);
      // Times the vocabulary, so that a softmax of its inverse weighs as much as a tolerance can see; float16 has no such small numbers.
      const double factor = dtype == at::kHalf ? 1.0 : static_cast<double>(vocabulary);
      expect_close(on_host(inputs[1].grad()) * factor, at::mm(grad_logits.t(), hidden) * factor, tolerance, 8.0);
      const at::NoGradGuard no_grad;
      EXPECT_NEAR(loss_for(targets)(inputs).item<double>(), expected, tolerance * expected);
    }
  }
}

// More positions than one chunk of logits holds (64 MiB on the CPU, 1 GiB on a GPU): together they are what two halves are.
TEST(LinearCrossEntropy, ChunksAddUp) {
  Random random;
  SCOPED_TRACE(random.trace());
  const int64_t vocabulary = 4096;
  const int64_t positions = test_device().is_cuda() ? 70000 : 4500;
  const std::vector<int32_t> targets = random.integers(positions, -1, static_cast<int32_t>(vocabulary));
  const int64_t half = positions / 2;
  const std::vector<Input> inputs = {{random.normal({positions, 8})}, {random.normal({vocabulary, 8})}};
  const std::vector<at::Tensor> whole = leaves(inputs, at::kFloat);
  const std::vector<at::Tensor> parts = leaves(inputs, at::kFloat);
  const at::Tensor loss = loss_for(targets)(whole);
  const at::Tensor first = loss_for({targets.begin(), targets.begin() + half})({parts[0].narrow(0, 0, half), parts[1]});
  const at::Tensor second = loss_for({targets.begin() + half, targets.end()})({parts[0].narrow(0, half, positions - half), parts[1]});
  loss.backward();
  (first + second).backward();
  expect_close(loss, first + second, 1e-5);
  // Float32 against float32: products of other shapes add their thousands of terms in another order.
  expect_close(whole[0].grad(), parts[0].grad(), 1e-4);
  expect_close(whole[1].grad(), parts[1].grad(), 1e-4);
}

TEST(LinearCrossEntropy, NoPositionsGiveZeroAndDefinedGradients) {
  for (const at::ScalarType dtype : all_dtypes()) {
    const std::vector<at::Tensor> inputs = leaves({{at::zeros({0, 4}, at::kDouble)}, {at::ones({6, 4}, at::kDouble)}}, dtype);
    const at::Tensor loss = loss_for({})(inputs);
    EXPECT_EQ(loss.item<double>(), 0.0);
    loss.backward();
    EXPECT_EQ(inputs[0].grad().sizes(), (std::vector<int64_t>{0, 4}));
    expect_close(inputs[1].grad(), at::zeros({6, 4}, at::kDouble), 0.0);
  }
}

TEST(LinearCrossEntropy, PositionsThatDoNotCountChangeNothing) {
  Random random;
  SCOPED_TRACE(random.trace());
  const at::Tensor hidden = random.normal({4, 8});
  const at::Tensor weight = random.normal({10, 8});
  const at::Tensor factor = at::ones({}, at::kDouble);
  const auto all = gradients(loss_for({-1, 4, -1, 2}), leaves({{hidden}, {weight}}, at::kDouble), factor);
  const at::Tensor counted = at::stack({hidden[1], hidden[3]});
  const auto some = gradients(loss_for({4, 2}), leaves({{counted}, {weight}}, at::kDouble), factor);
  expect_close(all[0].index_select(0, int_tensor({1, 3})), some[0], 1e-14);
  expect_close(all[0].index_select(0, int_tensor({0, 2})), at::zeros({2, 8}, at::kDouble), 0.0);
  expect_close(all[1], some[1], 1e-13);
}

TEST(LinearCrossEntropy, AGraphThatIsKeptGivesItsGradientsAgain) {
  Random random;
  SCOPED_TRACE(random.trace());
  const std::vector<at::Tensor> inputs = leaves({{random.normal({3, 8})}, {random.normal({5, 8})}}, at::kFloat);
  const at::Tensor loss = loss_for({1, 2, 3})(inputs);
  (loss * 3).backward({}, /*retain_graph=*/true);
  const at::Tensor once = inputs[1].grad().clone();
  (loss * 3).backward();
  expect_close(inputs[1].grad(), 2 * once, 1e-6);
}

TEST(LinearCrossEntropy, WithoutGradientsKeepsNothing) {
  Random random;
  SCOPED_TRACE(random.trace());
  const std::vector<at::Tensor> inputs = leaves({{random.normal({3, 8})}, {random.normal({5, 8})}}, at::kFloat);
  const at::Tensor with = loss_for({1, 2, 3})(inputs);
  const at::NoGradGuard no_grad;
  const at::Tensor without = loss_for({1, 2, 3})(inputs);
  EXPECT_TRUE(with.requires_grad());
  EXPECT_FALSE(without.requires_grad());
  expect_same_bits(with.detach(), without);
}

TEST(LinearCrossEntropy, NeverHidesWhatIsNotFinite) {
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      at::Tensor hidden = at::ones({2, 4}, at::kDouble);
      hidden[1][2] = bad;
      const std::vector<at::Tensor> inputs = leaves({{hidden}, {at::ones({40, 4}, at::kDouble)}}, dtype);
      const at::Tensor loss = loss_for({0, 1})(inputs);
      EXPECT_FALSE(std::isfinite(loss.item<double>()));
      loss.backward();
      EXPECT_FALSE(at::isfinite(inputs[1].grad()).all().item<bool>());
      EXPECT_TRUE(at::isfinite(inputs[0].grad()[0]).all().item<bool>());
    }
  }
}

TEST(LinearCrossEntropy, StaysExactWhereExponentialsWouldOverflow) {
  const at::Tensor hidden = at::full({1, 1}, 1000.0, at::kDouble);
  const at::Tensor weight = at::tensor(std::vector<double>{1, -1, 0.5}, at::kDouble).repeat({6}).view({18, 1});
  const std::vector<at::Tensor> inputs = leaves({{hidden}, {weight}}, at::kFloat);
  EXPECT_NEAR(loss_for({17})(inputs).item<double>(), 500.0 + std::log(6.0), 1e-3);
}

// Of 20000 they fill a whole part of a row that blocks share.
TEST(LinearCrossEntropy, LogitsOfMinusInfinityAddNothing) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const int64_t vocabulary : {20, 20000}) {
    const int64_t left_out = vocabulary * 3 / 5;
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(concat(dtype, " V ", vocabulary));
      at::Tensor weight = random.normal({vocabulary, 1});
      weight.narrow(0, 0, left_out).fill_(-std::numeric_limits<double>::infinity());
      const std::vector<at::Tensor> inputs = leaves({{at::ones({1, 1}, at::kDouble)}, {weight}}, dtype);
      const std::vector<int32_t> target = {static_cast<int32_t>(vocabulary) - 1};
      const at::Tensor counted = on_host(inputs[1]).narrow(0, left_out, vocabulary - left_out);
      const double expected = reference(at::ones({1, 1}, at::kDouble), counted, {target[0] - static_cast<int32_t>(left_out)});
      const at::Tensor loss = loss_for(target)(inputs);
      EXPECT_NEAR(loss.item<double>(), expected, tolerance_of(dtype) * (1 + expected));
      loss.backward();
      expect_close(inputs[1].grad().narrow(0, 0, left_out), at::zeros({left_out, 1}, at::kDouble), 1e-30);
    }
  }
}

TEST(LinearCrossEntropy, ATargetPastTheVocabularyIsSeen) {
  const std::vector<at::Tensor> inputs = leaves({{at::ones({2, 4}, at::kDouble)}, {at::ones({20000, 4}, at::kDouble)}}, at::kFloat);
  if (test_device().is_cuda()) {  // which does not wait to check them
    EXPECT_TRUE(std::isnan(loss_for({3, 20000})(inputs).item<double>()));
  } else {
    EXPECT_THROW(loss_for({3, 20000})(inputs), ShapeError);
  }
}

TEST(LinearCrossEntropy, RefusesOtherShapesAndDtypes) {
  const at::Tensor hidden = on_device(at::zeros({2, 4}), at::kFloat);
  EXPECT_THROW(loss_for({0, 1})({hidden, on_device(at::zeros({3, 5}), at::kFloat)}), ShapeError);
  EXPECT_THROW(loss_for({0})({hidden, hidden}), ShapeError);
  EXPECT_THROW(loss_for({0, 1})({hidden, hidden.to(at::kBFloat16)}), ShapeError);
}

}  // namespace cross_entropy_tests
}  // namespace pimoe::checks
