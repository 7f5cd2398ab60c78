// A MoE layer of PiMoE in a libtorch program: mpirun -n 2 ./moe_layer fits a function with eight experts, shared out over the ranks.
#include <moe/moe_module.h>
#include <torch/torch.h>

#include <iostream>

int main(int argc, char** argv) {
  const pimoe::MpiSession mpi(argc, argv);
  pimoe::MoeConfig config;
  config.experts = 8;
  config.choices = 2;
  config.expert_width = 64;
  const pimoe::ProcessMesh mesh({}, mpi.world(), mpi.node(), config.experts);
  pimoe::MoeModule experts(config, /*width=*/32, mesh);
  torch::optim::AdamW optimizer(experts.parameters(), torch::optim::AdamWOptions(1e-2));
  torch::manual_seed(mesh.rank());  // every rank has tokens of its own
  for (int step = 0; step <= 300; ++step) {
    const torch::Tensor tokens = torch::randn({256, 32}, mesh.device());
    const auto result = experts.forward(tokens);
    const torch::Tensor loss = torch::mse_loss(result.tokens, tokens.roll(1, 1).abs());
    optimizer.zero_grad();
    (loss + result.loss).backward();
    experts.average_gradients();
    optimizer.step();
    if (step % 100 == 0 && mesh.rank() == 0) std::cout << "step " << step << "  loss " << loss.item<float>() << std::endl;
  }
}
