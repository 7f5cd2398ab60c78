/// What holds on the CPU alone: contents of index tensors are checked, and no result depends on the number of threads.

#include "base/errors.h"
#include "ops/cross_entropy.h"
#include "ops/grouped_product.h"
#include "ops/launch.h"
#include "ops/op_checks.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/row_moves.h"
#include "ops/slot_order.h"
#include "ops/swiglu.h"
#include "ops/top_k.h"

#include <ATen/Parallel.h>

#include <mutex>

namespace pimoe::checks {
namespace {

TEST(HostChecks, AnIndexOutsideItsRangeIsNamed) {
  const at::Tensor hidden = at::zeros({2, 4});
  const at::Tensor weight = at::zeros({3, 4});
  for (const int64_t wrong : {3, -2}) {
    EXPECT_THROW(linear_cross_entropy(hidden, weight, at::tensor(std::vector<int64_t>{0, wrong})), ShapeError);
    EXPECT_THROW(order_by_expert(int_tensor({0, static_cast<int32_t>(wrong)}), 3), ShapeError);
  }
  try {
    linear_cross_entropy(hidden, weight, at::tensor(std::vector<int64_t>{0, 3}));
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "linear_cross_entropy: targets[1] (3) must be in [-1, 3)");
  }
  EXPECT_THROW(grouped_linear_layer(hidden, at::zeros({2, 3, 4}), int_tensor({2, 1})), ShapeError);
  EXPECT_THROW(grouped_linear_layer(hidden, at::zeros({2, 3, 4}), int_tensor({1, 3})), ShapeError);
}

TEST(ParallelRows, GivesEveryRowToOneThreadOfAsManyAsThereAre) {
  at::set_num_threads(2);
  std::vector<int> visits(1000, 0);
  int ranges = 0;
  std::mutex mutex;
  parallel_rows(1000, 1 << 20, [&](int64_t begin, int64_t end) {
    const std::lock_guard lock(mutex);
    ++ranges;
    for (int64_t row = begin; row < end; ++row) ++visits[static_cast<size_t>(row)];
  });
  at::set_num_threads(1);
  EXPECT_EQ(ranges, 2);
  EXPECT_EQ(visits, std::vector<int>(1000, 1));
}

/// Output and gradients of every operation but the products, which are libtorch's.
std::vector<at::Tensor> all_results(at::ScalarType dtype, unsigned seed) {
  setenv("PIMOE_TEST_SEED", std::to_string(seed).c_str(), 1);
  Random random;
  unsetenv("PIMOE_TEST_SEED");
  const int64_t tokens = 1003, choices = 2, width = 72, experts = 5;
  std::vector<at::Tensor> results;
  const auto run = [&](const Operation& operation, const std::vector<Input>& inputs) {
    const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
    const at::Tensor output = operation(tensors);
    output.backward(on_device(random.normal(output.sizes()), output.scalar_type()));
    results.push_back(output.detach());
    for (const at::Tensor& tensor : tensors) results.push_back(tensor.grad());
  };
  run([](const auto& in) { return rms_norm(in[0], in[1], 1e-6); }, {{random.normal({tokens, width})}, {random.normal({width}), true}});
  const at::Tensor angle = random.normal({17, 12});
  run(
      [&](const auto& in) {
        return joined(rotary(in[0], angle.cos().to(arithmetic_of(dtype)), angle.sin().to(arithmetic_of(dtype)), 1, 1));
      },
      {{random.normal({59, 17, 3, 24})}});
  const at::Tensor chosen = top_k(random.normal({tokens, experts}), choices);
  const SlotOrder order = order_by_expert(chosen.view({-1}), experts);
  results.insert(results.end(), {chosen, order.slots, order.positions, order.counts});
  run([&](const auto& in) { return gather_rows(in[0], order.slots, order.positions, choices); }, {{random.normal({tokens, width})}});
  run([&](const auto& in) { return combine_rows(in[0], in[1], order.positions); },
      {{random.normal({tokens * choices, width})}, {random.normal({tokens, choices}), true}});
  const at::Tensor gate_up = on_device(random.normal({tokens, 2 * width}), dtype);
  results.push_back(swiglu(gate_up));
  results.push_back(swiglu_backward_and_hidden(on_device(random.normal({tokens, width}), dtype), gate_up).grad_gate_up);
  return results;
}

TEST(Operations, GiveTheSameBitsOnOneThreadAndOnTwo) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(concat("PIMOE_TEST_SEED=", seed));
  for (const at::ScalarType dtype : all_dtypes()) {
    SCOPED_TRACE(concat(dtype));
    at::set_num_threads(1);
    const std::vector<at::Tensor> one = all_results(dtype, seed);
    at::set_num_threads(2);
    const std::vector<at::Tensor> two = all_results(dtype, seed);
    at::set_num_threads(1);
    ASSERT_EQ(one.size(), two.size());
    for (size_t i = 0; i < one.size(); ++i) {
      SCOPED_TRACE(concat("result ", i));
      expect_same_bits(one[i], two[i]);
    }
  }
}

}  // namespace
}  // namespace pimoe::checks
