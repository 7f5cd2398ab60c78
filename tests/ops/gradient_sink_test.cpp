#include "ops/gradient_sink.h"

#include "ops/cross_entropy.h"
#include "ops/op_checks.h"
#include "ops/routed_mlp.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <vector>

namespace pimoe::checks {
namespace gradient_sink_tests {

/// A float32 sum, and how its parts came.
struct Sum {
  at::Tensor total;
  bool written = false;
  int by_operation = 0;
  int by_autograd = 0;
};

class Sink final : public torch::autograd::PostAccumulateGradHook, public GradientSink {
 public:
  explicit Sink(std::shared_ptr<Sum> sum) : sum_(std::move(sum)) {}

  void operator()(const at::Tensor& leaf) override {
    if (!leaf.grad().defined()) return;
    const Room room = this->room();
    room.adds ? room.sum.add_(leaf.grad()) : room.sum.copy_(leaf.grad());
    leaf.mutable_grad().reset();
    ++sum_->by_autograd;
  }
  Room begin() override { return room(); }
  void end() override { ++sum_->by_operation; }

 private:
  Room room() { return {sum_->total, std::exchange(sum_->written, true)}; }

  std::shared_ptr<Sum> sum_;
};

/// @returns the sum that gradients of `leaf` go to from now on: at first of NaN, since it is to be overwritten
std::shared_ptr<Sum> sink_of(const at::Tensor& leaf) {
  auto sum = std::make_shared<Sum>();
  sum->total = at::full(leaf.sizes(), std::numeric_limits<double>::quiet_NaN(), leaf.options().dtype(arithmetic_of(leaf.scalar_type())));
  torch::autograd::impl::set_post_acc_grad_hooks(leaf, std::make_unique<Sink>(sum));
  return sum;
}

/// The sinks of inputs[first] and what follows have twice the gradient after two backwards, without a step through `.grad`.
void check_sinks(const Operation& operation, const std::vector<Input>& inputs, size_t first, Random& random, bool by_operation) {
  for (const at::ScalarType dtype : all_dtypes()) {
    SCOPED_TRACE(concat(dtype));
    const std::vector<at::Tensor> tensors = leaves(inputs, dtype);
    const at::Tensor factors = random.normal(operation(tensors).sizes());
    const std::vector<at::Tensor> expected = gradients(operation, leaves(inputs, dtype), factors);
    std::vector<std::shared_ptr<Sum>> sums;
    for (size_t i = first; i < tensors.size(); ++i) sums.push_back(sink_of(tensors[i]));
    for (int round = 1; round <= 2; ++round) {
      const at::Tensor output = operation(tensors);
      output.backward(on_device(factors, output.scalar_type()));
      for (size_t i = 0; i < sums.size(); ++i) {
        SCOPED_TRACE(concat("input ", first + i, ", round ", round));
        const at::Tensor wanted = on_host(expected[first + i]) * round;
        expect_close(sums[i]->total, wanted, tolerance_of(dtype), 1e-3 + wanted.abs().max().item<double>() / 8);
        EXPECT_FALSE(tensors[first + i].grad().defined());
        EXPECT_EQ(sums[i]->by_operation + sums[i]->by_autograd, round);
        EXPECT_TRUE(!by_operation || sums[i]->by_autograd == 0);
      }
    }
    for (const at::Tensor& tensor : tensors) torch::autograd::impl::set_post_acc_grad_hooks(tensor, nullptr);
  }
}

TEST(GradientSink, TakesTheHeadsGradient) {
  Random random;
  SCOPED_TRACE(random.trace());
  const std::vector<Input> inputs = {{random.normal({50, 24})}, {random.normal({72, 24})}};
  const at::Tensor targets = at::randint(-1, 72, {50}, at::kLong).to(test_device());
  const Operation loss = [=](const std::vector<at::Tensor>& tensors) { return linear_cross_entropy(tensors[0], tensors[1], targets); };
  check_sinks(loss, inputs, 1, random, /*by_operation=*/true);
}

TEST(GradientSink, TakesTheExpertsGradients) {
  Random random;
  SCOPED_TRACE(random.trace());
  // Groups of several tiles of a product, of one, and an empty one; ragged in every direction.
  const int64_t tokens = 700, choices = 2, width = 136, hidden = 200;
  std::vector<int32_t> slots, positions(tokens * choices, -1), ends;
  for (const int32_t first : {0, 900, 1000, 1000}) {
    const int32_t last = first == 0 ? 900 : first == 900 ? 1000 : 1377;
    if (ends.size() == 2) {
      ends.push_back(ends.back());
      continue;
    }
    for (int32_t slot = first; slot < last; ++slot) {
      positions[static_cast<size_t>(slot)] = static_cast<int32_t>(slots.size());
      slots.push_back(slot);
    }
    ends.push_back(static_cast<int32_t>(slots.size()));
  }
  const std::vector<Input> inputs = {{random.normal({tokens, width})},
                                     {random.normal({tokens, choices}), /*is_arithmetic=*/true},
                                     {random.normal({4, 2 * hidden, width}) / std::sqrt(static_cast<double>(width))},
                                     {random.normal({4, width, hidden}) / std::sqrt(static_cast<double>(hidden))}};
  const Operation mlp = [&](const std::vector<at::Tensor>& tensors) {
    return routed_swiglu_mlp(tensors[0], tensors[1], tensors[2], tensors[3], int_tensor(slots), int_tensor(positions), int_tensor(ends));
  };
  check_sinks(mlp, inputs, 2, random, /*by_operation=*/false);

  const std::vector<at::Tensor> tensors = leaves(inputs, at::kBFloat16);
  if (!test_device().is_cuda() || !fuses_routed_mlp(tensors[0], tensors[2], tensors[3])) return;
  const std::shared_ptr<Sum> sum = sink_of(tensors[2]);
  mlp(tensors).sum().backward();
  EXPECT_EQ(sum->by_operation, 1) << "the kernels add up in float32 themselves";
}

TEST(GradientSink, IsNoneOfOtherTensors) {
  const at::Tensor leaf = at::zeros({2}, at::TensorOptions().device(test_device())).requires_grad_(true);
  EXPECT_EQ(gradient_sink_of(leaf), nullptr);
  EXPECT_EQ(gradient_sink_of({}), nullptr);
  const auto sum = sink_of(leaf);
  EXPECT_NE(gradient_sink_of(leaf), nullptr);
  EXPECT_EQ(gradient_sink_of(leaf * 2), nullptr);
  EXPECT_EQ(gradient_sink_of(leaf.detach()), nullptr);
  leaf.register_hook([](const at::Tensor& gradient) { return gradient; });
  EXPECT_EQ(gradient_sink_of(leaf), nullptr);
}

TEST(AddToSum, IsTheSumInEachDtypeAndShape) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{{0, 3}, {1}, {257, 1023}, {3, (1 << 18) + 5}}) {
      const at::Tensor before = random.normal(sizes).to(test_device(), arithmetic_of(dtype));
      const at::Tensor term = random.normal(sizes).to(test_device(), dtype);
      const at::Tensor sum = before.clone();
      add_to_sum(sum, term);
      EXPECT_TRUE(at::equal(sum, before + term.to(before.scalar_type()))) << dtype << " " << at::IntArrayRef(sizes);
      if (term.dim() < 2) continue;
      const at::Tensor turned = term.t().contiguous().t();  // of the same numbers, but not one after the other
      const at::Tensor again = before.clone();
      add_to_sum(again, turned);
      EXPECT_TRUE(at::equal(again, sum)) << dtype << " " << at::IntArrayRef(sizes);
    }
  }
}

}  // namespace gradient_sink_tests
}  // namespace pimoe::checks
