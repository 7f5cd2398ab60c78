#include "train/validation.h"

#include "parallel/parameter_buckets.h"
#include "train/tiny_run.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

/// The loss of a model that nothing has trained, on the job's first `ranks` ranks; 0 on the others.
double initial_loss(const TrainConfig& config, int ranks, const ValidationPlan& plan) {
  const auto world = test_session().world();
  const auto mesh = sub_mesh(ranks, config.mesh, config.model.moe.experts);
  double loss = 0.0;
  if (world->rank() < ranks) {
    Transformer model(config.model, at::kDouble, *mesh);
    const ParameterBuckets buckets(model.parameters(), *mesh, ParameterBuckets::kBucketBytes, /*trained=*/false);
    const at::NoGradGuard no_gradients;
    for (const auto& parameter : model.parameters()) {
      const at::Tensor values = at::empty(parameter->box.shape, at::kDouble);
      initial_values(*parameter, {parameter->name, parameter->box, 0, parameter->box.numel()}, 1234, values.mutable_data_ptr<double>());
      parameter->value.copy_(values);
    }
    loss = validation_loss(model, TokenFile(config.data.train), plan, *mesh);
  }
  world->barrier();
  return loss;
}

/// Three sequences: with 2 ranks and more their shares differ.
void expect_one_loss(TrainConfig config) {
  const auto world = test_session().world();
  config.mesh.expert_parallel = 1;
  const double alone = initial_loss(config, 1, {.batch = 3, .micro_batch = 3, .batches = 1});
  for (int64_t expert_parallel = 1; expert_parallel <= world->size(); ++expert_parallel) {
    if (world->size() % expert_parallel != 0) continue;
    config.mesh.expert_parallel = expert_parallel;
    for (const int64_t micro_batch : {1, 2}) {
      SCOPED_TRACE(testing::Message() << "EP " << expert_parallel << " micro_batch " << micro_batch);
      const double loss = initial_loss(config, world->size(), {.batch = 3, .micro_batch = micro_batch, .batches = 1});
      if (world->rank() == 0) {
        EXPECT_NEAR(loss, alone, 1e-12);
      }
    }
  }
}

TEST(Validation, RanksWithUnequalSharesPadToOneCapacity) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.model.moe.experts = 12;
  config.model.moe.capacity_factor = 12.0;  // nothing is dropped: what is dropped differs between layouts
  config.model.moe.capacity_pad = true;
  expect_one_loss(config);
}

TEST(Validation, AUniformRouterKnowsATokenByItsPlaceAmongAllRanks) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.model.moe.experts = 12;
  config.model.moe.choices = 3;
  config.model.sequence_length = 7;  // 21 slots a sequence: its first expert depends on where it stands
  config.model.moe.router.kind = RouterKind::kUniform;
  expect_one_loss(config);
}

}  // namespace
}  // namespace pimoe
