#include "ops/adamw.h"

#include "base/errors.h"
#include "ops/launch.h"
#include "ops/op_checks.h"

#include <limits>

namespace pimoe::checks {
namespace adamw_tests {

/// A state of which everything is known: masters, moments and gradients drawn in float64 and rounded to `precision`.
struct Trial {
  /// @param rounded  of weights apart; the precision: there are none
  Trial(Random& random, int64_t count, at::ScalarType precision, at::ScalarType rounded, const std::vector<int64_t>& firsts)
      : sums(firsts, count, at::zeros({1}, at::TensorOptions().dtype(at::kLong).device(test_device()))) {
    state.master = on_device(random.normal({count}), precision);
    state.exp_avg = on_device(random.normal({count}) * 0.1, precision);
    state.exp_avg_sq = on_device(random.normal({count}).square() * 0.01, precision);
    if (rounded != precision) state.weights = at::zeros({count}, state.master.options().dtype(rounded));
    draw_gradient(random);
    compare_state(state, sums);  // the sums were of zeros
    sums.changed.zero_();
    sums.found.zero_();
  }
  void draw_gradient(Random& random) { gradient = on_device(random.normal(state.master.sizes()), state.master.scalar_type()); }
  void take(const AdamwStep& step) { adamw(step, gradient, state, sums); }
  int64_t found() const { return sums.found.item<int64_t>(); }

  AdamwState state;
  AdamwSums sums;
  at::Tensor gradient;
};

/// One element after another, in float64, in place.
void reference(const AdamwStep& step, const at::Tensor& gradient, AdamwState& state) {
  auto g = gradient.accessor<double, 1>();
  auto w = state.master.accessor<double, 1>();
  auto m = state.exp_avg.accessor<double, 1>();
  auto v = state.exp_avg_sq.accessor<double, 1>();
  for (int64_t i = 0; i < gradient.numel(); ++i) {
    const double clipped = g[i] * step.gradient_factor;
    m[i] = step.beta1 * m[i] + (1 - step.beta1) * clipped;
    v[i] = step.beta2 * v[i] + (1 - step.beta2) * clipped * clipped;
    const double first = m[i] / (1 - std::pow(step.beta1, step.number));
    const double second = v[i] / (1 - std::pow(step.beta2, step.number));
    w[i] -= step.learning_rate * step.weight_decay * w[i];
    w[i] -= step.learning_rate * first / (std::sqrt(second) + step.epsilon);
  }
}

AdamwState on_host(const AdamwState& state) {
  return {checks::on_host(state.master).clone(), checks::on_host(state.exp_avg).clone(), checks::on_host(state.exp_avg_sq).clone(), {}};
}

/// Sizes around those of vectors, tiles and chunks, and tensors that begin inside.
struct Layout {
  int64_t count;
  std::vector<int64_t> firsts;
};
const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all = {{0, {}},
                                          {1, {0}},
                                          {5, {0}},
                                          {63, {0}},
                                          {64, {0}},
                                          {777, {0, 64, 640}},
                                          {4096, {0}},
                                          {4097, {0}},
                                          {12288 + 3, {0, 64, 4160, 12288}},
                                          {100003, {0, 448, 70016}}};
  return all;
}

/// Of master and weight.
const std::vector<std::pair<at::ScalarType, at::ScalarType>>& pairs() {
  static const std::vector<std::pair<at::ScalarType, at::ScalarType>> all = {
      {at::kDouble, at::kDouble}, {at::kFloat, at::kFloat}, {at::kFloat, at::kBFloat16}, {at::kFloat, at::kHalf}};
  return all;
}

AdamwStep some_step(int64_t number) {
  return {.number = number,
          .learning_rate = 0.01,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .epsilon = 1e-8,
          .weight_decay = number % 2 == 0 ? 0.1 : 0.0,
          .gradient_factor = number == 2 ? 1.0 : 0.37};
}

TEST(Adamw, MatchesPlainLoopsAtAnyLengthAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const auto& [precision, rounded] : pairs()) {
    for (const Layout& layout : layouts()) {
      SCOPED_TRACE(concat(precision, " and ", rounded, ", ", layout.count, " elements"));
      Trial trial(random, layout.count, precision, rounded, layout.firsts);
      AdamwState expected = on_host(trial.state);
      for (int64_t number = 1; number <= 3; ++number) {
        trial.draw_gradient(random);
        const at::Tensor gradient = trial.gradient.clone();
        trial.take(some_step(number));
        reference(some_step(number), checks::on_host(trial.gradient), expected);
        expect_same_bits(trial.gradient, gradient);
      }
      const double tolerance = precision == at::kDouble ? 2e-15 : 2e-6;
      expect_close(trial.state.master, expected.master, tolerance);
      expect_close(trial.state.exp_avg, expected.exp_avg, tolerance);
      expect_close(trial.state.exp_avg_sq, expected.exp_avg_sq, tolerance);
      if (trial.state.weights.defined()) expect_same_bits(trial.state.weights, trial.state.master.to(rounded));
      EXPECT_EQ(trial.found(), 0);
    }
  }
}

// As the optimizer's slices are cut by the number of ranks.
TEST(Adamw, TreatsAnElementAlikeWhereverItLies) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const auto& [precision, rounded] : pairs()) {
    Trial whole(random, 10048, precision, rounded, {0, 6400});
    Trial part(random, 10048 - 704, precision, rounded, {0});
    const auto copy = [](const at::Tensor& to, const at::Tensor& from) { to.copy_(from.narrow(0, 704, to.numel())); };
    copy(part.state.master, whole.state.master);
    copy(part.state.exp_avg, whole.state.exp_avg);
    copy(part.state.exp_avg_sq, whole.state.exp_avg_sq);
    copy(part.gradient, whole.gradient);
    whole.take(some_step(1));
    part.take(some_step(1));
    expect_same_bits(part.state.master, whole.state.master.narrow(0, 704, part.state.master.numel()));
    expect_same_bits(part.state.exp_avg_sq, whole.state.exp_avg_sq.narrow(0, 704, part.state.master.numel()));
  }
}

void flip(const at::Tensor& values, int64_t element, int bit) {
  const at::Tensor words = values.view(values.scalar_type() == at::kDouble ? at::kLong : at::kInt);
  words[element].bitwise_xor_(static_cast<int64_t>(1ULL << bit));
}

/// @returns the bits of `changed`, chunk by chunk
std::vector<int64_t> changed_chunks(const Trial& trial) { return int_values(trial.sums.changed); }

TEST(Adamw, FindsAnyFlippedBitBetweenTwoStepsAndSaysWhere) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const auto& [precision, rounded] : pairs()) {
    const int bits = precision == at::kDouble ? 64 : 32;
    Trial trial(random, 12288 + 3, precision, rounded, {0, 64, 4160, 12288});  // chunks of 64, 4096, 4096, 4032 and 3
    const at::Tensor kinds[3] = {trial.state.master, trial.state.exp_avg, trial.state.exp_avg_sq};
    const std::vector<int64_t> places = {0, 63, 64, 4159, 4160, 9000, 12287, 12288, 12290};
    const std::vector<size_t> chunks = {0, 0, 1, 1, 2, 3, 3, 4, 4};
    int64_t number = 1;
    trial.take(some_step(number++));
    for (size_t kind = 0; kind < 3; ++kind) {
      for (size_t place = 0; place < places.size(); ++place) {
        const int bit = static_cast<int>((7 * place + 31 * kind + 5) % static_cast<size_t>(bits));
        SCOPED_TRACE(concat(precision, " kind ", kind, " element ", places[place], " bit ", bit));
        flip(kinds[kind], places[place], bit);
        trial.take(some_step(number++));
        EXPECT_EQ(trial.found(), 1);
        std::vector<int64_t> expected(5, 0);
        expected[chunks[place]] = int64_t{1} << kind;
        EXPECT_EQ(changed_chunks(trial), expected);
        trial.sums.changed.zero_();
        trial.sums.found.zero_();
        // What it made of the state is not found a second time.
        trial.take(some_step(number++));
        EXPECT_EQ(trial.found(), 0);
        // A number that is not finite stays that way: begin anew.
        trial.state.master.copy_(on_device(random.normal({12291}), precision));
        trial.state.exp_avg.zero_();
        trial.state.exp_avg_sq.fill_(0.5);
        compare_state(trial.state, trial.sums);
        trial.sums.changed.zero_();
        trial.sums.found.zero_();
      }
    }
  }
}

TEST(Adamw, FindsTwoFlipsOfOneBitThatASumAloneWouldNot) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const auto& [precision, rounded] : pairs()) {
    Trial trial(random, 4096, precision, rounded, {0});
    trial.state.exp_avg.fill_(1.0);
    trial.state.exp_avg[17] = 1.0 + (precision == at::kDouble ? 0x1p-52 : 0x1p-23);
    compare_state(trial.state, trial.sums);
    trial.sums.changed.zero_();
    trial.sums.found.zero_();
    for (const int64_t other : {0, 16, 18, 4095}) {
      flip(trial.state.exp_avg, 17, 0);
      flip(trial.state.exp_avg, other, 0);
      compare_state(trial.state, trial.sums);
      EXPECT_EQ(trial.found(), 1) << other;
      flip(trial.state.exp_avg, 17, 0);
      flip(trial.state.exp_avg, other, 0);
      compare_state(trial.state, trial.sums);
      trial.sums.found.zero_();
    }
  }
}

TEST(Adamw, FindsNothingInNumbersThatAreNotFinite) {
  Random random;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  for (const auto& [precision, rounded] : pairs()) {
    for (const double bad : {kNan, kInfinity, -kInfinity}) {
      Trial trial(random, 333, precision, rounded, {0});
      trial.gradient[100] = bad;
      for (int64_t number = 1; number <= 3; ++number) trial.take(some_step(number));
      EXPECT_EQ(trial.found(), 0);
      EXPECT_EQ((at::isfinite(trial.state.master) == 0).sum().item<int64_t>(), 1);
      EXPECT_FALSE(std::isfinite(trial.state.master[100].item<double>()));
    }
  }
}

// A rank's slice may be padding alone.
TEST(Adamw, LeavesElementsAloneThatAreOfNoTensor) {
  Random random;
  Trial trial(random, 64, at::kFloat, at::kBFloat16, {});
  const at::Tensor before = trial.state.master.clone();
  trial.take(some_step(1));
  expect_same_bits(trial.state.master, before);
  EXPECT_EQ(trial.found(), 0);
}

TEST(Adamw, BeginsWithTheSumsOfZeros) {
  Random random;
  Trial trial(random, 5000, at::kFloat, at::kFloat, {0});
  const AdamwSums fresh({0}, 5000, at::zeros_like(trial.sums.found));
  trial.sums = fresh;
  for (const at::Tensor& tensor : {trial.state.master, trial.state.exp_avg, trial.state.exp_avg_sq}) tensor.zero_();
  trial.take(some_step(1));
  EXPECT_EQ(trial.found(), 0);
}

// A forecast makes them for models of any size, without their memory.
TEST(Adamw, SumsOfAStateWithoutMemoryHaveShapesAlone) {
  const auto found_on = [](c10::DeviceType device) { return at::zeros({1}, at::TensorOptions().dtype(at::kLong).device(device)); };
  const AdamwSums real({0, 64, 50'048}, 100'000, found_on(at::kCPU));
  const AdamwSums planned({0, 64, 50'048}, 100'000, found_on(at::kMeta));
  EXPECT_EQ(planned.sums.sizes(), real.sums.sizes());
  EXPECT_EQ(planned.changed.sizes(), real.changed.sizes());
  EXPECT_EQ(planned.device_begins.sizes(), real.device_begins.sizes());
  constexpr int64_t kHuge = int64_t{1} << 50;
  EXPECT_EQ(AdamwSums({0}, kHuge, found_on(at::kMeta)).begins, std::vector<int64_t>{kHuge});
}

TEST(Adamw, RefusesWhatDoesNotBelongTogether) {
  Random random;
  const Trial good(random, 128, at::kFloat, at::kBFloat16, {0});
  const auto refuses = [&](const auto& spoil) {
    Trial trial = good;
    spoil(trial);
    EXPECT_THROW(trial.take(some_step(1)), ShapeError);
  };
  refuses([](Trial& trial) { trial.gradient = trial.gradient.to(at::kDouble); });
  refuses([](Trial& trial) { trial.gradient = trial.gradient.narrow(0, 0, 64); });
  refuses([](Trial& trial) { trial.state.exp_avg = trial.state.exp_avg.to(at::kBFloat16); });
  refuses([](Trial& trial) { trial.state.exp_avg_sq = at::zeros({256}, trial.gradient.options()).as_strided({128}, {2}); });
  refuses([](Trial& trial) { trial.state.exp_avg_sq = at::zeros({192}, trial.gradient.options()).narrow(0, 1, 128); });
  refuses([](Trial& trial) { trial.state.weights = trial.state.weights.to(at::kFloat); });
  refuses([](Trial& trial) { trial.sums = AdamwSums({0}, 64, trial.sums.found); });
  EXPECT_THROW(AdamwSums({0, 32}, 64, good.sums.found), ShapeError);
  EXPECT_THROW(AdamwSums({64}, 128, good.sums.found), ShapeError);
  EXPECT_THROW(AdamwSums({0, 192}, 128, good.sums.found), ShapeError);
}

}  // namespace adamw_tests
}  // namespace pimoe::checks
