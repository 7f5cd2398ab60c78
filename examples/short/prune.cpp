// The experts that fewest tokens are sent to leave a layer, with their rows of the router. A whole checkpoint, by what experts do: pimoe prune.
#include <moe/moe_module.h>
#include <torch/torch.h>

#include <iostream>
#include <tuple>

int main(int argc, char** argv) {
  const pimoe::MpiSession mpi(argc, argv);
  pimoe::MoeConfig config;
  config.experts = 8;
  config.choices = 2;
  config.expert_width = 128;
  const pimoe::ProcessMesh mesh = pimoe::one_rank_mesh({}, mpi, config.experts);  // which holds all of them
  const auto layer_of = [&](int64_t experts) {
    config.experts = experts;
    return pimoe::MoeModule(config, /*width=*/64, mesh, torch::kFloat32, /*seed=*/1, "moe", /*deviation=*/0.3);
  };
  pimoe::MoeModule large = layer_of(8);
  torch::manual_seed(1);
  const torch::NoGradGuard no_gradients;
  const torch::Tensor tokens = torch::randn({512, 64}, mesh.device());
  const auto before = large.forward(tokens);

  pimoe::MoeModule small = layer_of(6);
  const torch::Tensor kept = std::get<0>(std::get<1>(before.load.topk(6)).sort());
  int64_t numbers = 0;
  for (auto& parameter : small.named_parameters()) {  // a row, or a matrix, for each expert
    parameter.value().copy_(large.named_parameters()[parameter.key()].index_select(0, kept));
    numbers += parameter.value().numel();
  }
  const auto after = small.forward(tokens);
  std::cout << "experts that stay " << kept.view({1, -1}) << "  numbers left " << numbers << ", off by "
            << ((after.tokens - before.tokens).norm() / before.tokens.norm()).item<float>() << std::endl;
}
