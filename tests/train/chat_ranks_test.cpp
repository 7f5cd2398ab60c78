/// Fine-tuning: rows of whole conversations, of which only answers count, against a plain loop over the conversations.

#include "base/text.h"
#include "data/loss_mask.h"
#include "train/learner.h"
#include "train/tiny_run.h"
#include "train/validation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <map>
#include <random>

namespace pimoe {
namespace {

constexpr int64_t kLength = 8;
constexpr int kConversations = 60;

/// Conversations of 2 to 9 tokens, of which random ones are learned; of some none.
void write_conversations(const std::filesystem::path& prefix) {
  TokenFileWriter writer(prefix, 23, /*with_mask=*/true);
  std::mt19937 random(29);
  for (int conversation = 0; conversation < kConversations; ++conversation) {
    std::vector<int32_t> ids(2 + random() % kLength);
    std::vector<uint8_t> learned(ids.size());
    auto id = static_cast<int32_t>(random() % 23);
    for (int32_t& each : ids) each = id = static_cast<int32_t>((static_cast<uint32_t>(id) + 1 + random() % 3) % 23);
    const bool is_silent = random() % 4 == 0;
    for (uint8_t& flag : learned) flag = !is_silent && random() % 2 == 0 ? 1 : 0;
    writer.add(ids, learned);
    writer.end_document();
  }
  writer.finish();
}

TrainConfig chat_config(const SharedFolder& folder, const std::string& run, Packing packing) {
  TrainConfig config = tiny_config(folder, run);
  config.data.train = (folder.path() / "chat").string();
  config.data.packing = packing;
  config.model.sequence_length = kLength;
  config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
  config.train.micro_batch = micro_batch_for_two_steps(test_session().world()->size());
  if (test_session().world()->rank() == 0) write_conversations(config.data.train);
  test_session().world()->patient_barrier();
  return config;
}

using Gradients = std::map<std::string, at::Tensor>;

/// Whole gradients by name. Collective.
Gradients gradients_of(Learner& learner, const ProcessMesh& mesh) {
  Gradients whole;
  for (const auto& parameter : learner.model().parameters())
    whole[parameter->name] = at::zeros({parameter->box.global_numel()}, at::kDouble);
  for (const Bucket& bucket : learner.buckets().buckets()) {
    for (const auto& [piece, begin] : bucket.slice_pieces()) {
      const at::Tensor values = bucket.gradient_slice().narrow(0, begin, piece.numel());
      for (const Run& run : runs_of(piece))
        whole[piece.name].narrow(0, run.global_begin, run.length).copy_(values.narrow(0, run.local_begin, run.length));
    }
  }
  for (auto& [name, values] : whole) mesh.control().all_reduce(values);
  return whole;
}

/// A row without what fills it up, a document to a batch.
std::vector<MicroBatch> one_by_one(const std::vector<MicroBatch>& batches) {
  std::vector<MicroBatch> alone;
  for (const MicroBatch& batch : batches) {
    for (int64_t row = 0; row < batch.tokens.size(0); ++row) {
      const auto length = batch.counted[row].sum().item<int64_t>();
      MicroBatch each;
      each.tokens = batch.tokens.narrow(0, row, 1).narrow(1, 0, length).contiguous();
      each.targets = batch.targets.narrow(0, row, 1).narrow(1, 0, length).contiguous();
      each.global_sequences = 1;
      alone.push_back(std::move(each));
    }
  }
  alone.back().is_last = true;
  return alone;
}

struct Step {
  StepRecord record;
  Gradients gradients;
  int64_t tokens = 0;
};

Step make_step(Learner& learner, const std::vector<MicroBatch>& batches, const ProcessMesh& mesh) {
  Step step;
  const StepCounts counts = step_counts(batches, mesh);
  step.tokens = counts.tokens;
  const StepTerms terms = learner.begin_step(step.tokens, counts.targets);
  const StepSums sums = learner.accumulate_gradients(batches, terms, nullptr);
  step.gradients = gradients_of(learner, mesh);
  step.record = learner.update(sums);
  return step;
}

TEST(Chat, LossAndGradientsAreThoseOfALoopOverConversations) {
  const SharedFolder folder;
  TrainConfig config = chat_config(folder, "run", Packing::kPadded);
  config.model.moe.balance.switch_loss = 0;  // it is of all tokens together, and a loop has one conversation's
  config.model.moe.balance.z_loss = 1e-2;
  config.model.moe.balance.sequence_loss = 1e-2;
  const int ranks = test_session().world()->size();
  for (int64_t expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
    if (ranks % expert_parallel != 0) continue;
    for (const int64_t global_batch : {7, 2}) {  // 2: ranks without a conversation
      SCOPED_TRACE(concat("EP ", expert_parallel, ", batch ", global_batch));
      config.train.global_batch = global_batch;
      config.mesh.expert_parallel = expert_parallel;
      const auto mesh = world_mesh(config.mesh, config.model.moe.experts);
      Learner learner(config, at::kDouble, LossScaler(), *mesh);
      learner.optimizer().initialize(5);
      DataStream data(config.data.train, stream_options(config, *mesh), {});

      const auto single = single_mesh(cpu_mesh(), config.model.moe.experts);
      Learner plain(config, at::kDouble, LossScaler(), *single);
      plain.optimizer().initialize(5);
      DataStream all(config.data.train, stream_options(config, *single), {});
      for (int i = 0; i < 3; ++i) {
        const Step shared = make_step(learner, data.next_step(), *mesh);
        const Step loop = make_step(plain, one_by_one(all.next_step()), *single);
        EXPECT_EQ(shared.tokens, loop.tokens);
        EXPECT_NEAR(shared.record.loss, loop.record.loss, 1e-12);
        for (const auto& [name, values] : loop.gradients) {
          const double difference = (shared.gradients.at(name) - values).abs().max().item<double>();
          EXPECT_LE(difference, 1e-12 + 1e-10 * values.abs().max().item<double>()) << name << ", step " << i;
        }
        for (const auto& load : shared.record.routing->load) {
          int64_t slots = 0;
          for (const int64_t each : load) slots += each;
          EXPECT_EQ(slots, shared.tokens * config.model.moe.choices) << "what fills up rows is in no statistic";
        }
        EXPECT_EQ(shared.record.routing->load, loop.record.routing->load);
      }
    }
  }
}

TEST(Chat, PaddingTakesNobodysPlaceUnderACapacity) {
  const SharedFolder folder;
  TrainConfig config = chat_config(folder, "run", Packing::kPadded);
  config.model.moe.capacity_factor = 1.0;
  config.train.global_batch = 4;
  config.train.micro_batch = 4;
  const auto single = single_mesh(cpu_mesh(), config.model.moe.experts);
  Learner learner(config, at::kDouble, LossScaler(), *single);
  learner.optimizer().initialize(5);
  DataStream data(config.data.train, stream_options(config, *single), {});
  for (int i = 0; i < 5; ++i) {
    const Step step = make_step(learner, data.next_step(), *single);
    const int64_t rows = 4 * kLength;
    const int64_t capacity = (rows * config.model.moe.choices + config.model.moe.experts - 1) / config.model.moe.experts;
    for (size_t layer = 0; layer < step.record.routing->load.size(); ++layer) {
      int64_t over = 0;
      int64_t slots = 0;
      for (const int64_t load : step.record.routing->load[layer]) {
        over += std::max<int64_t>(0, load - capacity);
        slots += load;
      }
      EXPECT_NEAR(step.record.routing->dropped_fraction[layer], static_cast<double>(over) / static_cast<double>(slots), 1e-12)
          << "an expert drops what it has of tokens alone beyond its capacity";
    }
  }
}

std::vector<nlohmann::json> train(TrainConfig config, int ranks, int64_t expert_parallel) {
  config.mesh.expert_parallel = expert_parallel;
  config.train.micro_batch = micro_batch_for_two_steps(ranks);
  config.run.directory += concat("-", ranks, "-", expert_parallel);
  const auto mesh = sub_mesh(ranks, config.mesh, config.model.moe.experts);
  const auto world = test_session().world();
  if (world->rank() < ranks) {
    Logger log(1);
    Trainer trainer(config, *mesh, log, nullptr);
    EXPECT_EQ(trainer.run(), TrainOutcome::kComplete);
  }
  world->patient_barrier();
  return records_of(config);
}

TEST(Chat, EveryLayoutTrainsTheSameModelOnPackedConversations) {
  const SharedFolder folder;
  TrainConfig config = chat_config(folder, "run", Packing::kAuto);
  config.data.validation = config.data.train;
  config.train.validate_every = 5;
  config.train.steps = 20;
  config.model.moe.balance.bias_rate = 1e-3;
  const int ranks = test_session().world()->size();
  const auto alone = train(config, 1, 1);
  ASSERT_EQ(alone.size(), 20U);
  EXPECT_LT(alone.back().at("loss"), alone.front().at("loss"));
  EXPECT_LT(alone.back().at("learned_tokens"), alone.front().at("tokens"));
  for (int64_t expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
    if (ranks == 1 || ranks % expert_parallel != 0) continue;
    const auto shared = train(config, ranks, expert_parallel);
    ASSERT_EQ(shared.size(), alone.size());
    for (size_t step = 0; step < alone.size(); ++step) {
      SCOPED_TRACE(concat("ranks ", ranks, " EP ", expert_parallel, " step ", step + 1));
      EXPECT_NEAR(shared[step].at("loss").get<double>(), alone[step].at("loss").get<double>(), 1e-9);
      EXPECT_NEAR(shared[step].at("grad_norm").get<double>(), alone[step].at("grad_norm").get<double>(), 1e-8);
      for (const char* key : {"tokens", "learned_tokens"}) EXPECT_EQ(shared[step].at(key), alone[step].at(key));
      if (alone[step].contains("validation_loss")) {
        EXPECT_NEAR(shared[step].at("validation_loss").get<double>(), alone[step].at("validation_loss").get<double>(), 1e-9);
      }
    }
  }
}

TEST(Chat, AValidationCountsAnswersOfConversationsThatSeeNoOther) {
  const SharedFolder folder;
  const TrainConfig config = chat_config(folder, "run", Packing::kAuto);
  const auto mesh = world_mesh(cpu_mesh(), config.model.moe.experts);
  Learner learner(config, at::kDouble, LossScaler(), *mesh);
  learner.optimizer().initialize(5);
  const auto single = single_mesh(cpu_mesh(), config.model.moe.experts);
  Learner plain(config, at::kDouble, LossScaler(), *single);
  plain.optimizer().initialize(5);

  const TokenFile corpus(config.data.train);
  const LossMask mask(corpus);
  double sum = 0.0;
  int64_t targets = 0;
  std::vector<int64_t> begins(kConversations + 1, corpus.token_count());
  corpus.document_begins(0, kConversations, begins.data());
  for (size_t i = 0; i < kConversations; ++i) {
    const int64_t length = begins[i + 1] - begins[i];
    at::Tensor ids = at::zeros({1, length}, at::kLong);
    corpus.read(begins[i], length, ids.mutable_data_ptr<int64_t>());
    std::vector<uint8_t> learned(static_cast<size_t>(length));
    mask.read(begins[i], length, learned.data());
    at::Tensor wanted = ids.narrow(1, 1, length - 1).clone();
    for (int64_t at = 0; at + 1 < length; ++at) {
      if (learned[static_cast<size_t>(at) + 1] == 0)
        wanted[0][at] = -1;
      else
        ++targets;
    }
    const at::NoGradGuard no_gradients;
    sum += plain.model().forward(ids.narrow(1, 0, length - 1).contiguous(), wanted, {0, length - 1}).cross_entropy_sum.item<double>();
  }
  for (const int64_t micro_batch : {1, 3, 50}) {
    const ValidationPlan plan{.batch = 7, .micro_batch = micro_batch, .batches = 0};
    EXPECT_EQ(ValidationPart(corpus, kLength, plan).targets, targets);
    EXPECT_NEAR(cross_entropy_of(learner.model(), corpus, plan, *mesh).value(), sum, 1e-10 * sum) << micro_batch;
  }
  const ValidationPlan all{.batch = 7, .micro_batch = 3, .batches = 0, .loss = LossTokens::kAll};
  EXPECT_EQ(ValidationPart(corpus, kLength, all).targets, corpus.token_count() - 1);
}

}  // namespace
}  // namespace pimoe
