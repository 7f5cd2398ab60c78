#include "ops/routed_mlp.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <algorithm>
#include <limits>

namespace pimoe::checks {
namespace routed_mlp_tests {

struct Sizes {
  int64_t tokens, choices, groups, width, hidden_width;
};

/// Within one tile of a product and over several, widths that fill none, widths that no kernel takes, and more groups than tokens.
const std::vector<Sizes>& all_sizes() {
  static const std::vector<Sizes> sizes = {{40, 2, 4, 64, 32}, {150, 3, 5, 264, 136}, {7, 1, 3, 8, 8},    {33, 2, 6, 72, 200},
                                           {5, 2, 3, 5, 3},    {300, 1, 2, 40, 520},  {2, 2, 9, 128, 64}, {400, 2, 3, 24, 16}};
  return sizes;
}

enum class Loads { kEven, kSkewed };

/// Slots in order of their groups, as dispatch lays them out; some go nowhere, the last group is empty, and some rows are unused.
struct Route {
  std::vector<int32_t> groups;  // of slots, -1 for none
  std::vector<int32_t> slots, positions, ends;

  Route(Random& random, const Sizes& sizes, Loads loads = Loads::kEven) {
    groups = random.integers(sizes.tokens * sizes.choices, -1, static_cast<int32_t>(std::max<int64_t>(1, sizes.groups - 1)));
    if (loads == Loads::kSkewed) {  // the fullest somewhere inside
      const auto fullest = static_cast<int32_t>(sizes.groups / 3);
      std::uniform_real_distribution<double> distribution;
      for (int32_t& group : groups) {
        const auto distance = static_cast<int32_t>(static_cast<double>(sizes.groups) * std::pow(distribution(random.engine()), 4));
        group = group < 0 ? group : (fullest + distance) % static_cast<int32_t>(sizes.groups);
      }
    }
    positions.assign(groups.size(), -1);
    for (int64_t group = 0; group < sizes.groups; ++group) {
      for (size_t slot = 0; slot < groups.size(); ++slot) {
        if (groups[slot] != group) continue;
        positions[slot] = static_cast<int32_t>(slots.size());
        slots.push_back(static_cast<int32_t>(slot));
      }
      ends.push_back(static_cast<int32_t>(slots.size()));
    }
    slots.resize(groups.size(), 0);
  }
};

std::vector<Input> inputs_of(Random& random, const Sizes& s) {
  return {{random.normal({s.tokens, s.width})},
          {random.normal({s.tokens, s.choices}), /*is_arithmetic=*/true},
          {random.normal({s.groups, 2 * s.hidden_width, s.width}) / std::sqrt(static_cast<double>(s.width))},
          {random.normal({s.groups, s.width, s.hidden_width}) / std::sqrt(static_cast<double>(s.hidden_width))}};
}

Operation mlp(const Route& route) {
  return [=](const std::vector<at::Tensor>& inputs) {
    return routed_swiglu_mlp(inputs[0], inputs[1], inputs[2], inputs[3], int_tensor(route.slots), int_tensor(route.positions),
                             int_tensor(route.ends));
  };
}

at::Tensor reference(const std::vector<at::Tensor>& inputs, const Route& route) {
  const at::Tensor tokens = on_host(inputs[0]), weights = on_host(inputs[1]), gate_up = on_host(inputs[2]), down = on_host(inputs[3]);
  const int64_t choices = weights.size(1), hidden_width = down.size(2);
  at::Tensor output = at::zeros_like(tokens);
  for (int64_t slot = 0; slot < weights.numel(); ++slot) {
    const int32_t group = route.groups[static_cast<size_t>(slot)];
    if (group < 0) continue;
    const at::Tensor both = gate_up[group].mv(tokens[slot / choices]);
    const at::Tensor gate = both.narrow(0, 0, hidden_width);
    const at::Tensor hidden = gate / (1 + (-gate).exp()) * both.narrow(0, hidden_width, hidden_width);
    output[slot / choices] += weights[slot / choices][slot % choices] * down[group].mv(hidden);
  }
  return output;
}

TEST(RoutedSwigluMlp, MatchesALoopOverSlotsAtAnySizeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const Sizes& sizes : all_sizes()) {
    const Route route(random, sizes);
    const std::vector<Input> inputs = inputs_of(random, sizes);
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(
          concat(dtype, " tokens ", sizes.tokens, " groups ", sizes.groups, " width ", sizes.width, " hidden ", sizes.hidden_width));
      const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
      expect_close(mlp(route)(tensors), reference(tensors, route), 2 * tolerance_of(dtype), 5.0);
    }
  }
}

TEST(RoutedSwigluMlp, GradientsAreThoseOfTheFormula) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const Sizes& sizes : {Sizes{6, 2, 3, 8, 8}, Sizes{4, 1, 2, 3, 2}}) {
    const Route route(random, sizes);
    check_gradients(mlp(route), inputs_of(random, sizes), random);
  }
}

TEST(RoutedSwigluMlp, GradientsOfEveryDtypeAreThoseOfFloat64AtAnySize) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const Sizes& sizes : all_sizes()) {
    const Route route(random, sizes);
    const std::vector<Input> inputs = inputs_of(random, sizes);
    const at::Tensor factors = random.normal({sizes.tokens, sizes.width});
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      SCOPED_TRACE(
          concat(dtype, " tokens ", sizes.tokens, " groups ", sizes.groups, " width ", sizes.width, " hidden ", sizes.hidden_width));
      const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
      std::vector<Input> rounded;
      for (size_t i = 0; i < inputs.size(); ++i) rounded.push_back({on_host(tensors[i]), inputs[i].is_arithmetic});
      const at::Tensor rounded_factors = on_host(on_device(factors, dtype));
      const auto expected = gradients(mlp(route), leaves(rounded, at::kDouble), rounded_factors);
      const auto grads = gradients(mlp(route), tensors, rounded_factors);
      for (size_t i = 0; i < grads.size(); ++i) {
        SCOPED_TRACE(concat("gradient of input ", i));
        expect_close(grads[i], expected[i], 2 * tolerance_of(dtype), 1.0 + expected[i].abs().max().item<double>());
      }
    }
  }
}

// Several tiles for each of a GPU's processors, one after the other, and groups of more than one band of tiles; long hidden rows; groups of very
// different sizes, fewer and more than are dealt out by their length.
TEST(RoutedSwigluMlp, ManyTilesAreThoseOfFloat64) {
  Random random;
  SCOPED_TRACE(random.trace());
  const bool on_gpu = test_device().is_cuda();
  for (const auto& [sizes, loads] :
       std::vector<std::pair<Sizes, Loads>>{{on_gpu ? Sizes{6000, 2, 4, 512, 512} : Sizes{300, 2, 4, 96, 64}, Loads::kEven},
                                            {{150, 2, 3, 72, 2056}, Loads::kEven},
                                            {on_gpu ? Sizes{2000, 2, 7, 1032, 1032} : Sizes{200, 2, 7, 40, 72}, Loads::kSkewed},
                                            {on_gpu ? Sizes{3000, 2, 60, 264, 136} : Sizes{200, 2, 60, 24, 16}, Loads::kSkewed},
                                            {on_gpu ? Sizes{700, 2, 1100, 64, 32} : Sizes{40, 2, 90, 16, 8}, Loads::kSkewed}}) {
    SCOPED_TRACE(concat("groups ", sizes.groups, " hidden ", sizes.hidden_width));
    const Route route(random, sizes, loads);
    const std::vector<Input> inputs = inputs_of(random, sizes);
    const std::vector<at::Tensor> tensors = leaves(inputs, at::kBFloat16);
    std::vector<Input> rounded;
    for (size_t i = 0; i < inputs.size(); ++i) rounded.push_back({on_host(tensors[i]), inputs[i].is_arithmetic});
    const at::Tensor factors = on_host(on_device(random.normal({sizes.tokens, sizes.width}), at::kBFloat16));
    const auto doubles = leaves(rounded, at::kDouble);
    expect_close(mlp(route)(tensors), mlp(route)(doubles), 2 * tolerance_of(at::kBFloat16), 5.0);
    const auto expected = gradients(mlp(route), doubles, factors);
    const auto grads = gradients(mlp(route), tensors, factors);
    for (size_t i = 0; i < grads.size(); ++i) {
      SCOPED_TRACE(concat("gradient of input ", i));
      expect_close(grads[i], expected[i], 2 * tolerance_of(at::kBFloat16), 1.0 + expected[i].abs().max().item<double>());
    }
  }
}

TEST(RoutedSwigluMlp, SameBitsEachTime) {
  Random random;
  SCOPED_TRACE(random.trace());
  const Sizes sizes{400, 3, 6, 128, 264};
  const Route route(random, sizes);
  const std::vector<Input> inputs = inputs_of(random, sizes);
  const at::Tensor factors = random.normal({sizes.tokens, sizes.width});
  const auto first = gradients(mlp(route), leaves(inputs, at::kBFloat16), factors);
  for (int run = 0; run < 3; ++run) {
    const auto again = gradients(mlp(route), leaves(inputs, at::kBFloat16), factors);
    for (size_t i = 0; i < first.size(); ++i) expect_same_bits(again[i], first[i]);
  }
}

TEST(RoutedSwigluMlp, ATokenThatGoesNowhereAndAnEmptyGroupGiveZeros) {
  for (const at::ScalarType dtype : all_dtypes()) {
    Random random;
    const Sizes sizes{3, 2, 2, 16, 8};
    Route route(random, sizes);
    route.positions = {-1, -1, 0, -1, 1, 2};
    route.slots = {2, 4, 5, 0, 0, 0};
    route.ends = {3, 3};
    const auto tensors = leaves(inputs_of(random, sizes), dtype);
    const at::Tensor output = mlp(route)(tensors);
    EXPECT_EQ(output[0].abs().max().item<double>(), 0.0);
    EXPECT_GT(output[1].abs().max().item<double>(), 0.0);
    output.sum().backward();
    EXPECT_EQ(tensors[0].grad()[0].abs().max().item<double>(), 0.0);
    EXPECT_EQ(tensors[1].grad()[0].abs().max().item<double>(), 0.0);
    EXPECT_EQ(tensors[1].grad()[1][1].item<double>(), 0.0);
    EXPECT_EQ(tensors[2].grad()[1].abs().max().item<double>(), 0.0);
    EXPECT_EQ(tensors[3].grad()[1].abs().max().item<double>(), 0.0);
  }
}

TEST(RoutedSwigluMlp, WhatIsNotFiniteStaysWithItsTokenAndItsGroup) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    const Sizes sizes{4, 1, 3, 16, 8};
    Route route(random, sizes);
    route.positions = {0, 1, 2, 3};
    route.slots = {0, 1, 2, 3};
    route.ends = {2, 3, 4};
    std::vector<Input> inputs = inputs_of(random, sizes);
    inputs[0].values[2].fill_(std::numeric_limits<double>::quiet_NaN());
    const auto tensors = leaves(inputs, dtype);
    const at::Tensor output = mlp(route)(tensors);
    output.sum().backward();
    for (const int64_t token : {0, 1, 3}) EXPECT_TRUE(at::isfinite(output[token]).all().item<bool>());
    EXPECT_TRUE(at::isnan(output[2]).all().item<bool>());
    for (const int64_t group : {0, 2}) {
      EXPECT_TRUE(at::isfinite(tensors[2].grad()[group]).all().item<bool>());
      EXPECT_TRUE(at::isfinite(tensors[3].grad()[group]).all().item<bool>());
    }
    EXPECT_TRUE(at::isnan(tensors[2].grad()[1]).any().item<bool>());
  }
}

TEST(RoutedSwigluMlp, NoTokensGiveDefinedZeroGradients) {
  Random random;
  for (const at::ScalarType dtype : all_dtypes()) {
    const Sizes sizes{0, 2, 2, 8, 8};
    const Route route(random, sizes);
    const auto grads = gradients(mlp(route), leaves(inputs_of(random, sizes), dtype), at::zeros({0, 8}, at::kDouble));
    for (size_t i = 2; i < 4; ++i) expect_close(grads[i], at::zeros_like(on_host(grads[i])), 0.0);
  }
}

TEST(RoutedSwigluMlp, TheKernelsTakeBfloat16OfWidthsThatTheyCanRead) {
  const auto takes = [](at::ScalarType dtype, int64_t width, int64_t hidden_width) {
    const auto options = at::TensorOptions().dtype(dtype).device(test_device());
    return fuses_routed_mlp(at::zeros({4, width}, options), at::zeros({2, 2 * hidden_width, width}, options),
                            at::zeros({2, width, hidden_width}, options));
  };
  EXPECT_EQ(takes(at::kBFloat16, 16, 24), has_routed_mlp_kernels(test_device()));
  const int64_t step = test_device().is_cuda() ? 8 : 2;  // of widths
  EXPECT_EQ(takes(at::kBFloat16, 8 + step, 24), has_routed_mlp_kernels(test_device()));
  EXPECT_FALSE(takes(at::kBFloat16, 8 + step / 2, 24));
  EXPECT_FALSE(takes(at::kBFloat16, 16, 8 + step / 2));
  EXPECT_FALSE(takes(at::kFloat, 16, 24));
}

TEST(RoutedSwigluMlp, RefusesOtherShapes) {
  Random random;
  const Sizes sizes{4, 2, 2, 8, 8};
  const Route route(random, sizes);
  auto tensors = leaves(inputs_of(random, sizes), at::kBFloat16);
  tensors[1] = tensors[1].narrow(0, 0, 3).contiguous();
  EXPECT_THROW(mlp(route)(tensors), ShapeError);
  tensors = leaves(inputs_of(random, sizes), at::kBFloat16);
  tensors[3] = tensors[3].narrow(2, 0, 7).contiguous();
  EXPECT_THROW(mlp(route)(tensors), ShapeError);
}

}  // namespace routed_mlp_tests
}  // namespace pimoe::checks
