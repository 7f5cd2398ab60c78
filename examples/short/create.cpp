// A MoE layer with typed experts, and one training step of it.
#include <moe/moe_module.h>
#include <torch/torch.h>

#include <iostream>

int main(int argc, char** argv) {
  const pimoe::MpiSession mpi(argc, argv);
  pimoe::MoeConfig config;
  config.experts = 8;
  config.choices = 2;
  config.expert_width = 256;
  config.groups = {{.name = "reasoning", .count = 2, .activation = pimoe::Activation::kGelu, .layers = 3},
                   {.name = "computation", .count = 2},
                   {.name = "mathematical", .count = 2, .activation = pimoe::Activation::kRelu2, .width = 384},
                   {.name = "logical", .count = 2, .activation = pimoe::Activation::kTanh, .width = 384}};
  config.balance.switch_loss = 1e-2;
  const pimoe::ProcessMesh mesh({}, mpi.world(), mpi.node(), /*experts of a group=*/2);
  pimoe::MoeModule experts(config, /*width=*/512, mesh);
  torch::optim::AdamW optimizer(experts.parameters(), torch::optim::AdamWOptions(1e-3));

  torch::manual_seed(mesh.rank());
  const torch::Tensor tokens = torch::randn({2, 128, 512}, mesh.device());
  for (int step = 0; step < 2; ++step) {
    const auto result = experts.forward(tokens);
    const torch::Tensor loss = torch::mse_loss(result.tokens, tokens);
    if (mesh.rank() == 0) std::cout << "loss " << loss.item<float>() << "  load of each expert " << result.load.view({1, -1}) << std::endl;
    optimizer.zero_grad();
    (loss + result.loss).backward();
    experts.average_gradients();
    optimizer.step();
  }
}
