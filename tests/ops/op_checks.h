#pragma once

/// What the tests of operations share. Every *_test.cpp here that includes this runs on the CPU, and once more on a GPU: ops_gpu_test.cpp
/// includes those files with another test_device().

#include "base/text.h"
#include "ops/attention_heads.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#ifndef PIMOE_TEST_DEVICE
#define PIMOE_TEST_DEVICE at::kCPU
#endif

namespace pimoe::checks {

inline at::Device test_device() { return at::Device(PIMOE_TEST_DEVICE); }

inline const std::vector<at::ScalarType>& all_dtypes() {
  static const std::vector<at::ScalarType> dtypes = {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf};
  return dtypes;
}

inline at::ScalarType arithmetic_of(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

/// A few units in the last place of a value near 1.
inline double tolerance_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return 1e-12;
    case at::kFloat: return 5e-6;
    case at::kBFloat16: return 0.02;
    default: return 0.003;
  }
}

/// Fresh numbers in each run; `trace()` names the seed, PIMOE_TEST_SEED=<seed> brings them back.
class Random {
 public:
  Random() {
    const char* fixed_seed = std::getenv("PIMOE_TEST_SEED");
    seed_ = fixed_seed != nullptr ? static_cast<unsigned>(std::strtoul(fixed_seed, nullptr, 10)) : std::random_device{}();
    engine_.seed(seed_);
  }
  std::string trace() const { return concat("PIMOE_TEST_SEED=", seed_); }

  /// Standard normal values: float64, on the CPU.
  at::Tensor normal(at::IntArrayRef sizes) {
    at::Tensor values = at::empty(sizes, at::kDouble);
    std::normal_distribution<double> distribution;
    for (int64_t i = 0; i < values.numel(); ++i) values.mutable_data_ptr<double>()[i] = distribution(engine_);
    return values;
  }
  /// Whole numbers in [low, high).
  std::vector<int32_t> integers(int64_t count, int32_t low, int32_t high) {
    std::uniform_int_distribution<int32_t> distribution(low, high - 1);
    std::vector<int32_t> values(static_cast<size_t>(count));
    for (int32_t& value : values) value = distribution(engine_);
    return values;
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  unsigned seed_;
  std::mt19937_64 engine_;
};

inline at::Tensor int_tensor(const std::vector<int32_t>& values) { return at::tensor(values, at::kInt).to(test_device()); }

inline std::vector<int64_t> int_values(const at::Tensor& tensor) {
  const at::Tensor host = tensor.to(at::kCPU, at::kLong).contiguous();
  return {host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel()};
}

/// As an operation gets it.
inline at::Tensor on_device(const at::Tensor& values, at::ScalarType dtype) { return values.to(test_device(), dtype).contiguous(); }
/// As a reference reads it.
inline at::Tensor on_host(const at::Tensor& values) { return values.detach().to(at::kCPU, at::kDouble).contiguous(); }

/// [B, S, H + 2 KV, d], differentiable.
inline at::Tensor joined(const AttentionHeads& heads) { return at::cat({heads.queries, heads.keys, heads.values}, 2); }

/// Every element within tolerance * (scale + |expected|); NaN only where NaN is expected.
inline void expect_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance, double scale = 1.0) {
  ASSERT_TRUE(actual.defined());
  ASSERT_EQ(actual.sizes(), expected.sizes());
  const at::Tensor actual_host = on_host(actual);
  const at::Tensor expected_host = on_host(expected);
  for (int64_t i = 0; i < actual_host.numel(); ++i) {
    const double found = actual_host.const_data_ptr<double>()[i];
    const double wanted = expected_host.const_data_ptr<double>()[i];
    if (std::isnan(found) && std::isnan(wanted)) continue;
    ASSERT_TRUE(std::abs(found - wanted) <= tolerance * (scale + std::abs(wanted)))
        << "element " << i << " of " << concat(actual.sizes(), " ", actual.scalar_type()) << ": " << found << ", expected " << wanted;
  }
}

inline void expect_same_bits(const at::Tensor& left, const at::Tensor& right) {
  ASSERT_TRUE(left.defined() && right.defined());
  EXPECT_TRUE(left.scalar_type() == right.scalar_type() && at::equal(left, right));
}

/// An input of a differentiable operation: float64 values; given to it in its dtype, or in the arithmetic type of that.
struct Input {
  at::Tensor values;
  bool is_arithmetic = false;
};
using Operation = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

inline std::vector<at::Tensor> leaves(const std::vector<Input>& inputs, at::ScalarType dtype) {
  std::vector<at::Tensor> tensors;
  for (const Input& input : inputs) {
    tensors.push_back(on_device(input.values, input.is_arithmetic ? arithmetic_of(dtype) : dtype).clone().requires_grad_(true));
  }
  return tensors;
}

/// @returns the gradients of sum(operation(inputs) * factors).
inline std::vector<at::Tensor> gradients(const Operation& operation, const std::vector<at::Tensor>& tensors, const at::Tensor& factors) {
  const at::Tensor output = operation(tensors);
  output.backward(on_device(factors, output.scalar_type()));
  std::vector<at::Tensor> grads;
  for (const at::Tensor& tensor : tensors) grads.push_back(tensor.grad());
  return grads;
}

/// Central differences of sum(operation(inputs) * factors) in float64, element by element.
inline std::vector<at::Tensor> finite_differences(const Operation& operation, const std::vector<Input>& inputs, const at::Tensor& factors) {
  constexpr double kStep = 1e-5;
  std::vector<at::Tensor> grads;
  for (const Input& varied : inputs) {
    at::Tensor grad = at::zeros_like(varied.values);
    for (int64_t i = 0; i < varied.values.numel(); ++i) {
      double sums[2];
      for (int side = 0; side < 2; ++side) {
        std::vector<at::Tensor> tensors;
        for (const Input& input : inputs) {
          at::Tensor values = input.values.clone();
          if (&input == &varied) values.mutable_data_ptr<double>()[i] += side == 0 ? -kStep : kStep;
          tensors.push_back(on_device(values, at::kDouble));
        }
        sums[side] = (on_host(operation(tensors)) * factors).sum().item<double>();
      }
      grad.mutable_data_ptr<double>()[i] = (sums[1] - sums[0]) / (2 * kStep);
    }
    grads.push_back(grad);
  }
  return grads;
}

/// float64 gradients against finite differences; every other dtype against float64 at the same rounded inputs; each input's gradient alone
/// against all together; and an expanded incoming gradient, as sum() gives, against the same one in full.
inline void check_gradients(const Operation& operation, const std::vector<Input>& inputs, Random& random,
                            const std::vector<at::ScalarType>& dtypes = all_dtypes()) {
  const at::Tensor shape = on_host(operation(leaves(inputs, at::kDouble)));
  const at::Tensor factors = random.normal(shape.sizes());
  const std::vector<at::Tensor> expected = finite_differences(operation, inputs, factors);
  for (const at::ScalarType dtype : dtypes) {
    SCOPED_TRACE(concat("dtype ", dtype));
    const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
    const at::Tensor rounded_factors = on_host(on_device(factors, dtype));
    const std::vector<at::Tensor> grads = gradients(operation, tensors, rounded_factors);
    std::vector<at::Tensor> reference = expected;
    if (dtype != at::kDouble) {
      std::vector<Input> rounded;
      for (size_t i = 0; i < inputs.size(); ++i) rounded.push_back({on_host(tensors[i]), inputs[i].is_arithmetic});
      reference = gradients(operation, leaves(rounded, at::kDouble), rounded_factors);
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      SCOPED_TRACE(concat("gradient of input ", i));
      const double largest = reference[i].numel() == 0 ? 0.0 : reference[i].abs().max().item<double>();
      expect_close(grads[i], reference[i], dtype == at::kDouble ? 1e-7 : 2 * tolerance_of(dtype), 1.0 + largest);
      EXPECT_EQ(grads[i].scalar_type(), tensors[i].scalar_type());

      std::vector<at::Tensor> alone = leaves(inputs, dtype);
      for (size_t other = 0; other < alone.size(); ++other) alone[other].requires_grad_(other == i);
      expect_same_bits(gradients(operation, alone, rounded_factors)[i], grads[i]);
    }
    const std::vector<at::Tensor> expanded = leaves(inputs, dtype);
    operation(expanded).sum().backward();
    const std::vector<at::Tensor> full = gradients(operation, leaves(inputs, dtype), at::ones_like(factors));
    for (size_t i = 0; i < inputs.size(); ++i) expect_same_bits(expanded[i].grad(), full[i]);
  }
}

/// Of what `make` makes of heads [B, S, H + 2 KV, d], gradients each by itself, sliced from one tensor, or with the positions of a head side by side
/// give the same bits; and one that is missing counts as zeros.
template <class Make>
void check_gradient_layouts(const at::Tensor& values, const at::Tensor& factors, at::ScalarType dtype, int64_t queries, int64_t kv_heads,
                            const Make& make) {
  const auto gradient = [&](const auto& layout, bool of_queries_alone) {
    const at::Tensor heads = leaves({{values}}, dtype)[0];
    const AttentionHeads made = make(heads);
    const AttentionHeads grads = AttentionHeads::split(on_device(factors, dtype), queries, kv_heads);
    if (of_queries_alone) {
      torch::autograd::backward({made.queries}, {layout(grads.queries)});
    } else {
      torch::autograd::backward({made.queries, made.keys, made.values}, {layout(grads.queries), layout(grads.keys), layout(grads.values)});
    }
    return heads.grad();
  };
  const auto sliced = [](const at::Tensor& grad) { return grad; };
  const auto own = [](const at::Tensor& grad) { return grad.contiguous(); };
  const auto by_head = [](const at::Tensor& grad) { return grad.transpose(1, 2).contiguous().transpose(1, 2); };
  const at::Tensor expected = gradient(sliced, false);
  expect_same_bits(gradient(own, false), expected);
  expect_same_bits(gradient(by_head, false), expected);
  const at::Tensor alone = gradient(own, true);
  expect_same_bits(alone.narrow(2, 0, queries), expected.narrow(2, 0, queries));
  expect_same_bits(alone.narrow(2, queries, 2 * kv_heads), at::zeros_like(alone.narrow(2, queries, 2 * kv_heads)));
}

}  // namespace pimoe::checks
