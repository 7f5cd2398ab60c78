#include "moe/moe_module.h"

#include "base/errors.h"
#include "support/ranks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/optim/adamw.h>

namespace pimoe {
namespace {

MoeConfig twelve_experts() {
  MoeConfig config;
  config.experts = 12;
  config.choices = 3;
  config.expert_width = 10;
  config.shared_width = 6;
  config.balance.switch_loss = 0.1;
  config.balance.bias_rate = 0.05;
  config.balance.bias_law = BiasLaw::kProportional;  // by sign it can return to 0
  return config;
}

/// The same on every rank.
at::Tensor tokens_of(int rank, int step, at::ScalarType dtype) {
  auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(100 * step + rank));
  return at::randn({4, 5, 8}, generator, at::TensorOptions(dtype));
}

at::Tensor loss_of(const MoeModule::Result& result) { return result.tokens.square().mean() + result.loss; }

/// @param from  a parameter of the module of one rank  @param like  the same one where experts are spread
at::Tensor part_of(const at::Tensor& from, const at::Tensor& like, const ProcessMesh& mesh) {
  if (from.sizes() == like.sizes()) return from;
  return from.narrow(0, mesh.rank() % mesh.expert_parallel() * like.size(0), like.size(0));
}

// A program's own optimizer, in any layout, does what it does alone with all ranks' tokens.
TEST(MoeModule, TrainsAsOneRankWithAllTokensDoes) {
  const int ranks = test_session().world()->size();
  for (int expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
    if (ranks % expert_parallel != 0) continue;
    const auto mesh = world_mesh(cpu_mesh(expert_parallel), 12);
    const auto alone = single_mesh(cpu_mesh(), 12);
    MoeModule spread(twelve_experts(), 8, *mesh, at::kDouble, /*seed=*/7);
    MoeModule whole(twelve_experts(), 8, *alone, at::kDouble, /*seed=*/7);
    torch::optim::AdamW spread_steps(spread.parameters(), torch::optim::AdamWOptions(1e-2));
    torch::optim::AdamW whole_steps(whole.parameters(), torch::optim::AdamWOptions(1e-2));
    for (int step = 0; step < 4; ++step) {
      std::vector<at::Tensor> all;
      for (int rank = 0; rank < ranks; ++rank) all.push_back(tokens_of(rank, step, at::kDouble));
      spread_steps.zero_grad();
      whole_steps.zero_grad();
      const MoeModule::Result here = spread.forward(all[static_cast<size_t>(mesh->rank())]);
      const MoeModule::Result everywhere = whole.forward(at::cat(all));
      EXPECT_TRUE(at::allclose(here.tokens, everywhere.tokens.narrow(0, 4 * mesh->rank(), 4), 1e-9, 1e-12)) << "step " << step;
      EXPECT_TRUE(here.load.equal(everywhere.load));
      loss_of(here).backward();
      loss_of(everywhere).backward();
      spread.average_gradients();
      whole.average_gradients();
      const auto named = whole.named_parameters();
      for (const auto& parameter : spread.named_parameters()) {
        const at::Tensor expected = part_of(named[parameter.key()].grad(), parameter.value().grad(), *mesh);
        EXPECT_TRUE(at::allclose(parameter.value().grad(), expected, 1e-8, 1e-12)) << parameter.key() << ", step " << step;
      }
      spread_steps.step();
      whole_steps.step();
      spread.update_biases();
      whole.update_biases();
      EXPECT_TRUE(at::allclose(spread.layer().router().bias(), whole.layer().router().bias()));
      EXPECT_GT(spread.layer().router().bias().abs().max().item<double>(), 1e-3);
    }
  }
}

TEST(MoeModule, ARankWithoutTokensTakesPart) {
  const auto mesh = world_mesh(cpu_mesh(), 12);
  MoeModule module(twelve_experts(), 8, *mesh);
  const int64_t tokens = mesh->rank() == 0 ? 0 : 6;
  const MoeModule::Result result = module.forward(at::ones({tokens, 8}));
  EXPECT_EQ(result.tokens.size(0), tokens);
  EXPECT_EQ(result.load.sum().item<int64_t>(), 6 * 3 * (mesh->size() - 1));
  (result.tokens.sum() + result.loss).backward();
  module.average_gradients();
  for (const at::Tensor& parameter : module.parameters()) EXPECT_TRUE(parameter.grad().isfinite().all().item<bool>());
}

TEST(MoeModule, InEvaluationNothingIsCounted) {
  const auto mesh = single_mesh(cpu_mesh(), 12);
  MoeModule module(twelve_experts(), 8, *mesh);
  module.eval();
  module.forward(at::randn({9, 8}));
  module.update_biases();
  EXPECT_EQ(module.layer().router().bias().abs().max().item<double>(), 0.0);
}

TEST(MoeModule, RefusesWhatOnlyATrainerCanDo) {
  const auto mesh = single_mesh(cpu_mesh(), 12);
  MoeConfig config = twelve_experts();
  config.adaptive.enabled = true;
  config.router.kind = RouterKind::kHash;
  config.balance.bias_schedule = BiasSchedule::kLinear;
  try {
    const MoeModule module(config, 8, *mesh);
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    for (const char* key : {"adaptive.enabled", "router.kind", "bias_schedule"}) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
  }
  MoeModule module(twelve_experts(), 8, *mesh);
  EXPECT_THROW(module.forward(at::randn({4, 9})), ShapeError);
  EXPECT_THROW(module.forward(at::Tensor()), ShapeError);
}

}  // namespace
}  // namespace pimoe
