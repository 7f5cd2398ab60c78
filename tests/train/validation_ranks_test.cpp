#include "train/validation.h"

#include "checkpoint/checkpoint_store.h"
#include "model/model_fixture.h"
#include "train/tiny_run.h"

#include <gtest/gtest.h>

#include <cmath>
#include <csignal>

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
    draw_initial_values(model.parameters());
    loss = validation_loss(model, TokenFile(config.data.train), plan, *mesh).value();
  }
  world->patient_barrier();
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

// Whole sequences of 8 tokens, and what is left, which rank 0 computes: each token but the first is predicted once.
TEST(Validation, OfAWholeCorpusCountsTheShorterSequenceAtItsEnd) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.data.train = (folder.path() / "validation").string();
  const TokenFile corpus(config.data.train);
  const ValidationPart part(corpus, 8, {.batch = 3, .micro_batch = 2, .batches = 0});
  ASSERT_GT(part.rest, 0);
  EXPECT_EQ(part.whole * 8 + part.rest, corpus.token_count() - 1);
  EXPECT_EQ(part.targets, corpus.token_count() - 1);
  EXPECT_EQ(part.left_out, 0);
  const ValidationPart some(corpus, 8, {.batch = 3, .micro_batch = 2, .batches = 2});
  EXPECT_EQ(some.whole, 6);
  EXPECT_EQ(some.left_out, corpus.token_count() - 1 - 48);

  const double whole = initial_loss(config, 1, {.batch = 1, .micro_batch = 64, .batches = part.whole});
  const double all = initial_loss(config, 1, {.batch = 1, .micro_batch = 64, .batches = 0});
  if (test_session().world()->rank() == 0) {
    // The rest is some tokens of many: what it adds is its own mean, near log 23 for a model that nothing has trained.
    const double of_rest =
        (all * static_cast<double>(part.targets) - whole * static_cast<double>(part.whole * 8)) / static_cast<double>(part.rest);
    EXPECT_NEAR(of_rest, std::log(23.0), 0.2);
  }
  const int ranks = test_session().world()->size();
  const double shared = initial_loss(config, ranks, {.batch = 3, .micro_batch = 7, .batches = 0});
  if (test_session().world()->rank() == 0) {
    EXPECT_NEAR(shared, all, 1e-12);
  }
}

// Six steps, of which each is validated; the last rank alone is asked to stop in the third.
TEST(Validation, IsLeftOutOnEveryRankWhereOneIsAskedToStop) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.mesh.expert_parallel = 1;
  config.train.steps = 6;
  config.train.validate_every = 1;
  config.data.validation = (folder.path() / "validation").string();
  const auto world = test_session().world();
  const auto mesh = sub_mesh(world->size(), config.mesh, config.model.moe.experts);
  Logger log(1);
  const StopRequest stop;
  Trainer trainer(config, *mesh, log, &stop);
  trainer.model().parameters().at("final_norm.weight").value.register_hook([&](const at::Tensor& gradient) {
    if (mesh->rank() == mesh->size() - 1 && trainer.step() + 1 == 3) raise(SIGUSR1);
    return gradient;
  });
  EXPECT_EQ(trainer.run(), TrainOutcome::kStopped);
  world->patient_barrier();
  EXPECT_EQ(find_checkpoint(config.run.directory).filename(), "step-00000003");
  std::vector<bool> validated;
  for (const auto& record : records_of(config)) validated.push_back(record.contains("validation_loss"));
  EXPECT_EQ(validated, (std::vector<bool>{true, true, false}));
}

TEST(Validation, IsBrokenOffBetweenItsMicroSteps) {
  const SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  config.mesh.expert_parallel = 1;
  const auto mesh = sub_mesh(test_session().world()->size(), config.mesh, config.model.moe.experts);
  Transformer model(config.model, at::kDouble, *mesh);
  const ParameterBuckets buckets(model.parameters(), *mesh, ParameterBuckets::kBucketBytes, /*trained=*/false);
  const TokenFile corpus(config.data.train);
  const ValidationPlan plan{.batch = 8 * mesh->size(), .micro_batch = 1, .batches = 1};
  int asked = 0;
  EXPECT_FALSE(validation_loss(model, corpus, plan, *mesh, [&] { return ++asked == 4; }).has_value());
  EXPECT_EQ(asked, 4);
}

}  // namespace
}  // namespace pimoe
