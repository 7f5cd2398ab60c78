// A matrix in int8, and what a product with it is off by. A whole checkpoint: pimoe quantize.
#include <ops/int8_product.h>
#include <torch/torch.h>

#include <iostream>

int main() {
  torch::manual_seed(1);
  const torch::Tensor weights = torch::randn({1, 256, 512});  // of one group: 256 channels of 512 numbers
  const torch::Tensor rows = torch::randn({64, 512});
  const pimoe::Int8Numbers int8 = pimoe::int8_numbers(weights);
  const pimoe::Int8Matrices matrices = {
      .numbers = int8.numbers, .scales = int8.scales, .activations = pimoe::Int8Activations::kDynamic, .allow_slow = true};
  const torch::Tensor ends = torch::tensor({64}, torch::kInt32);  // all rows are the group's
  const torch::Tensor product = pimoe::int8_linear(rows, matrices, ends, torch::kFloat32);
  const torch::Tensor exact = rows.matmul(weights[0].t());
  std::cout << pimoe::int8_kernel(matrices.activations, torch::kFloat32, torch::kCPU, /*allow_slow=*/true) << "\n"
            << weights.nbytes() << " bytes -> " << int8.numbers.nbytes() + int8.scales.nbytes() << ", off by "
            << ((product - exact).norm() / exact.norm()).item<float>() << std::endl;
}
