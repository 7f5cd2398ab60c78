#include "ops/grouped_product.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <limits>

namespace pimoe::checks {
namespace grouped_product_tests {

struct Sizes {
  std::vector<int32_t> ends;
  int64_t rows, in, out;
};

/// Even and odd sizes, empty groups at either end and inside, unused rows, no rows at all.
const std::vector<Sizes>& all_sizes() {
  static const std::vector<Sizes> sizes = {
      {{4}, 4, 8, 16},    {{0, 3, 3, 10, 10}, 10, 16, 8}, {{2, 5}, 9, 24, 32},          {{0, 0, 0}, 6, 8, 8},
      {{0, 0}, 0, 8, 16}, {{3, 4, 7}, 8, 5, 3},           {{70, 71, 200}, 210, 64, 40}, {{290, 400}, 401, 270, 70}};
  return sizes;
}

/// @returns the group of a row, or -1 for an unused one.
int64_t group_of(const std::vector<int32_t>& ends, int64_t row) {
  for (size_t group = 0; group < ends.size(); ++group) {
    if (row < ends[group]) return static_cast<int64_t>(group);
  }
  return -1;
}

/// values [R, columns] whose unused rows are NaN: a product must not look at them.
at::Tensor with_unused_nan(at::Tensor values, const std::vector<int32_t>& ends) {
  for (int64_t row = ends.back(); row < values.size(0); ++row) values[row].fill_(std::numeric_limits<double>::quiet_NaN());
  return values;
}

Operation linear(const std::vector<int32_t>& ends) {
  return [=](const std::vector<at::Tensor>& inputs) { return grouped_linear_layer(inputs[0], inputs[1], int_tensor(ends)); };
}

TEST(GroupedLinear, AndItsGradientsMatchALoopOverRowsAtAnySizeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const Sizes& sizes : all_sizes()) {
      SCOPED_TRACE(concat(dtype, " rows ", sizes.rows, " in ", sizes.in, " out ", sizes.out));
      const auto groups = static_cast<int64_t>(sizes.ends.size());
      const std::vector<Input> inputs = {{with_unused_nan(random.normal({sizes.rows, sizes.in}), sizes.ends)},
                                         {random.normal({groups, sizes.out, sizes.in})}};
      const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
      const at::Tensor grad = on_device(with_unused_nan(random.normal({sizes.rows, sizes.out}), sizes.ends), dtype);

      const at::Tensor x = on_host(tensors[0]), g = on_host(grad), w = on_host(tensors[1]);
      at::Tensor product = at::zeros({sizes.rows, sizes.out}, at::kDouble);
      at::Tensor input_gradient = at::zeros({sizes.rows, sizes.in}, at::kDouble);
      at::Tensor weight_gradient = at::zeros({groups, sizes.out, sizes.in}, at::kDouble);
      for (int64_t row = 0; row < sizes.ends.back(); ++row) {
        const int64_t group = group_of(sizes.ends, row);
        product[row].copy_((w[group] * x[row]).sum(1));
        input_gradient[row].copy_((w[group] * g[row].unsqueeze(1)).sum(0));
        weight_gradient[group] += g[row].unsqueeze(1) * x[row];
      }
      const double scale = 30.0;  // sums of up to 290 products of normal values
      expect_close(linear(sizes.ends)(tensors), product, tolerance_of(dtype), scale);
      const auto grads = gradients(linear(sizes.ends), tensors, g);
      expect_close(grads[0], input_gradient, tolerance_of(dtype), scale);
      expect_close(grads[1], weight_gradient, tolerance_of(dtype), scale);
    }
  }
}

Operation mlp(const std::vector<int32_t>& ends) {
  return [=](const std::vector<at::Tensor>& inputs) { return grouped_swiglu_mlp(inputs[0], inputs[1], inputs[2], int_tensor(ends)); };
}

at::Tensor mlp_reference(const at::Tensor& rows, const at::Tensor& gate_up, const at::Tensor& down, const std::vector<int32_t>& ends) {
  const int64_t hidden_width = down.size(2);
  at::Tensor output = at::zeros_like(rows);
  for (int64_t row = 0; row < ends.back(); ++row) {
    const int64_t group = group_of(ends, row);
    const at::Tensor both = (gate_up[group] * rows[row]).sum(1);
    const at::Tensor gate = both.narrow(0, 0, hidden_width);
    const at::Tensor hidden = gate / (1 + (-gate).exp()) * both.narrow(0, hidden_width, hidden_width);
    output[row].copy_((down[group] * hidden).sum(1));
  }
  return output;
}

std::vector<Input> mlp_inputs(Random& random, int64_t rows, int64_t groups, int64_t width, int64_t hidden_width) {
  return {{random.normal({rows, width})},
          {random.normal({groups, 2 * hidden_width, width}) / std::sqrt(static_cast<double>(width))},
          {random.normal({groups, width, hidden_width}) / std::sqrt(static_cast<double>(hidden_width))}};
}

// Sizes within a tile of a product and over several, odd ones that no tile takes, one number, and no rows.
TEST(LinearLayer, IsTheProductAndItsGradientsAtAnySizeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  const Operation linear = [](const std::vector<at::Tensor>& inputs) { return linear_layer(inputs[0], inputs[1]); };
  for (const auto& [shape, columns] : std::vector<std::pair<std::vector<int64_t>, int64_t>>{
           {{3, 5, 8}, 6}, {{2, 40, 64}, 300}, {{7, 5}, 4}, {{130, 258}, 66}, {{1, 2}, 2}, {{0, 4}, 6}, {{9, 4}, 3}, {{64, 300}, 16}}) {
    const std::vector<Input> inputs = {{random.normal(shape)},
                                       {random.normal({columns, shape.back()}) / std::sqrt(static_cast<double>(shape.back()))}};
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(concat(dtype, " ", at::IntArrayRef(shape), " to ", columns));
      const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
      std::vector<Input> rounded;
      for (const at::Tensor& tensor : tensors) rounded.push_back({on_host(tensor)});
      const auto doubles = leaves(rounded, at::kDouble);
      const at::Tensor expected = on_host(doubles[0]).matmul(on_host(doubles[1]).t());
      expect_close(linear(tensors), expected, 2 * tolerance_of(dtype), 2.0);
      const at::Tensor factors = on_host(on_device(random.normal(expected.sizes()), dtype));
      const auto grads = gradients(linear, tensors, factors);
      const at::Tensor flat = factors.reshape({-1, columns});
      expect_close(grads[0], factors.matmul(on_host(doubles[1])), 2 * tolerance_of(dtype), 4.0);
      expect_close(grads[1], flat.t().mm(on_host(doubles[0]).reshape({-1, shape.back()})), 2 * tolerance_of(dtype),
                   std::sqrt(static_cast<double>(flat.size(0) + 1)) * 4.0);
    }
  }
}

TEST(GroupedSwigluMlp, MatchesALoopOverRowsAtAnySizeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const Sizes& sizes : all_sizes()) {
      SCOPED_TRACE(concat(dtype, " rows ", sizes.rows, " in ", sizes.in, " out ", sizes.out));
      std::vector<Input> inputs = mlp_inputs(random, sizes.rows, static_cast<int64_t>(sizes.ends.size()), sizes.in, sizes.out);
      inputs[0].values = with_unused_nan(inputs[0].values, sizes.ends);
      const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
      const at::Tensor expected = mlp_reference(on_host(tensors[0]), on_host(tensors[1]), on_host(tensors[2]), sizes.ends);
      expect_close(mlp(sizes.ends)(tensors), expected, 2 * tolerance_of(dtype), 3.0);
    }
  }
}

TEST(GroupedSwigluMlp, GradientsAreThoseOfTheFormula) {
  Random random;
  SCOPED_TRACE(random.trace());
  check_gradients(mlp({2, 2, 3}), mlp_inputs(random, 5, 3, 3, 2), random);
  check_gradients(mlp({0, 2}), mlp_inputs(random, 3, 2, 8, 8), random);
}

TEST(GroupedSwigluMlp, RowWeightsWeighResultsAndHaveTheirGradient) {
  Random random;
  SCOPED_TRACE(random.trace());
  const auto weighed = [](const std::vector<int32_t>& ends) -> Operation {
    return [=](const std::vector<at::Tensor>& in) { return grouped_swiglu_mlp(in[0], in[1], in[2], int_tensor(ends), in[3]); };
  };
  const auto inputs_of = [&](int64_t rows, int64_t groups, int64_t width, int64_t hidden_width) {
    std::vector<Input> inputs = mlp_inputs(random, rows, groups, width, hidden_width);
    inputs.push_back({random.normal({rows, 1}), /*is_arithmetic=*/true});
    return inputs;
  };
  check_gradients(weighed({2, 2, 3}), inputs_of(3, 3, 3, 2), random);
  check_gradients(weighed({1, 4}), inputs_of(4, 2, 8, 8), random);
  const std::vector<int32_t> ends = {70, 71, 200};
  const std::vector<Input> inputs = inputs_of(200, 3, 64, 40);
  for (const at::ScalarType dtype : all_dtypes()) {
    SCOPED_TRACE(concat(dtype));
    const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
    const at::Tensor expected = mlp_reference(on_host(tensors[0]), on_host(tensors[1]), on_host(tensors[2]), ends) * on_host(tensors[3]);
    expect_close(weighed(ends)(tensors), expected, 2 * tolerance_of(dtype), 5.0);
  }
}

TEST(GroupedSwigluMlp, UnusedRowsLeaveNoTraceInAnyGradient) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    SCOPED_TRACE(concat(dtype));
    const std::vector<int32_t> ends = {3, 3, 5};
    std::vector<Input> inputs = mlp_inputs(random, 9, 3, 16, 8);
    const at::Tensor factors = random.normal({9, 16});
    std::vector<Input> spoiled = inputs;
    spoiled[0].values = with_unused_nan(inputs[0].values.clone(), ends);
    const auto clean = gradients(mlp(ends), leaves(inputs, dtype), factors);
    const auto grads = gradients(mlp(ends), leaves(spoiled, dtype), with_unused_nan(factors.clone(), ends));
    for (size_t i = 0; i < grads.size(); ++i) expect_same_bits(grads[i], clean[i]);
    expect_close(grads[0].narrow(0, 5, 4), at::zeros({4, 16}, at::kDouble), 0.0);
    expect_close(grads[1][1], at::zeros({16, 16}, at::kDouble), 0.0);
    expect_close(grads[2][1], at::zeros({16, 8}, at::kDouble), 0.0);
  }
}

TEST(GroupedSwigluMlp, NoRowsGiveDefinedZeroGradients) {
  Random random;
  for (const at::ScalarType dtype : all_dtypes()) {
    const std::vector<Input> inputs = mlp_inputs(random, 0, 2, 8, 8);
    const auto grads = gradients(mlp({0, 0}), leaves(inputs, dtype), at::zeros({0, 8}, at::kDouble));
    for (size_t i = 0; i < grads.size(); ++i) expect_close(grads[i], at::zeros_like(inputs[i].values), 0.0);
  }
}

TEST(GroupedSwigluMlp, NoGroupsGiveZeros) {
  for (const at::ScalarType dtype : all_dtypes()) {
    const auto options = at::TensorOptions().dtype(dtype).device(test_device());
    const at::Tensor rows = at::ones({2, 8}, options);
    const at::Tensor output = grouped_swiglu_mlp(rows, at::zeros({0, 8, 8}, options), at::zeros({0, 8, 4}, options), int_tensor({}));
    expect_close(output, at::zeros({2, 8}, at::kDouble), 0.0);
  }
}

TEST(GroupedLinear, RefusesShapesThatDoNotFit) {
  const at::Tensor rows = on_device(at::zeros({4, 8}), at::kFloat);
  const at::Tensor weights = on_device(at::zeros({2, 3, 8}), at::kFloat);
  const at::Tensor ends = int_tensor({1, 4});
  EXPECT_THROW(grouped_linear_layer(rows, weights, int_tensor({4})), ShapeError);
  EXPECT_THROW(grouped_linear_layer(rows, weights.narrow(2, 0, 4).contiguous(), ends), ShapeError);
  EXPECT_THROW(grouped_linear_layer(rows, weights, ends.to(at::kLong)), ShapeError);
  EXPECT_THROW(grouped_linear_layer(rows, weights.to(at::kDouble), ends), ShapeError);
  EXPECT_THROW(grouped_swiglu_mlp(rows, weights, weights, ends), ShapeError);
}

}  // namespace grouped_product_tests
}  // namespace pimoe::checks
