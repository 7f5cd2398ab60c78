// Where the time of a program's own steps goes: counts, means and percentiles by name.
#include <base/track.h>
#include <moe/moe_module.h>
#include <torch/torch.h>

#include <iostream>

int main(int argc, char** argv) {
  const pimoe::MpiSession mpi(argc, argv);
  pimoe::MoeConfig config;
  config.expert_width = 64;
  const pimoe::ProcessMesh mesh({}, mpi.world(), mpi.node(), config.experts);
  pimoe::MoeModule experts(config, /*width=*/64, mesh);
  pimoe::Tracker tracker;
  for (int step = 0; step < 20; ++step) {
    const auto whole = tracker.track("step");
    const torch::Tensor tokens = torch::randn({256, 64}, mesh.device());
    torch::Tensor loss;
    {
      const auto scope = tracker.track("forward");  // "step/forward"
      loss = experts.forward(tokens).tokens.square().mean();
    }
    const auto scope = tracker.track("backward");
    loss.backward();
  }
  if (mesh.rank() == 0) std::cout << tracker.to_text() << tracker.to_json() << std::endl;
}
