#include "base/errors.h"
#include "base/text.h"
#include "data/document_starts.h"
#include "model/model_fixture.h"
#include "train/tiny_run.h"
#include "train/validation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>

namespace pimoe {
namespace {

/// Rows of 24 tokens, of documents of 5 to 24.
TrainConfig packed_config(const SharedFolder& folder, const std::string& run) {
  TrainConfig config = tiny_config(folder, run);
  config.model.moe.experts = test_session().world()->size() == 3 ? 6 : 8;
  config.model.sequence_length = 24;
  config.data.document_mask = true;
  config.data.validation = (folder.path() / "validation").string();
  config.train.validation_batches = 2;
  return config;
}

/// Trains on the first `ranks` ranks of the job up to `steps`; the others wait. @returns the records of the run so far
std::vector<nlohmann::json> train(TrainConfig config, int ranks, int64_t expert_parallel, int64_t micro_batch, int64_t steps = 6) {
  const auto world = test_session().world();
  config.mesh.expert_parallel = expert_parallel;
  config.train.micro_batch = micro_batch;
  config.train.steps = steps;
  config.optimizer.schedule = Schedule::kConstant;
  const auto mesh = sub_mesh(ranks, config.mesh, config.model.moe.experts);
  if (world->rank() < ranks) {
    Logger log(1);
    EXPECT_EQ(Trainer(config, *mesh, log, nullptr).run(), TrainOutcome::kComplete);
  }
  world->patient_barrier();
  const auto found = records_of(config);
  world->patient_barrier();
  return found;
}

void expect_same(const std::vector<nlohmann::json>& found, const std::vector<nlohmann::json>& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t step = 0; step < expected.size(); ++step) {
    for (const char* key : {"loss", "grad_norm", "validation_loss"}) {
      if (!expected[step].contains(key)) continue;
      const double value = expected[step].at(key);
      EXPECT_NEAR(found[step].at(key).get<double>(), value, tolerance * value) << key << " of step " << step + 1;
    }
  }
}

/// Mean loss over the documents of samples, each computed alone in a batch of its own, with nothing of this setting.
double loss_of_documents_alone(const Transformer& model, const ProcessMesh& mesh, const std::vector<std::vector<int64_t>>& documents) {
  const at::NoGradGuard no_gradients;
  double sum = 0.0;
  int64_t targets = 0;
  for (const std::vector<int64_t>& ids : documents) {
    if (ids.size() < 2) continue;
    const auto count = static_cast<int64_t>(ids.size()) - 1;
    const at::Tensor row = at::tensor(ids, at::kLong).unsqueeze(0);
    const auto part = [&](int64_t begin) { return row.narrow(1, begin, count).contiguous(); };
    sum += model.forward(part(0), part(1), batch_context(0, mesh.size(), count, mesh)).cross_entropy_sum.item<double>();
    targets += count;
  }
  return sum / static_cast<double>(targets);
}

/// The pieces of documents in samples [0, count) of the corpora.
std::vector<std::vector<int64_t>> pieces(const SampleBlend& samples, int64_t count, int64_t length) {
  std::vector<std::vector<int64_t>> documents;
  std::vector<int64_t> ids(static_cast<size_t>(length) + 1);
  for (int64_t sample = 0; sample < count; ++sample) {
    samples.read(sample, 23, ids.data());
    std::vector<int64_t> starts = samples.document_starts(sample);
    starts.insert(starts.begin(), 0);
    starts.push_back(length + 1);
    for (size_t i = 0; i + 1 < starts.size(); ++i) documents.emplace_back(ids.begin() + starts[i], ids.begin() + starts[i + 1]);
  }
  return documents;
}

TEST(DocumentMaskRanks, TheFirstStepsLossIsThatOfItsDocumentsEachAlone) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  TrainConfig config = packed_config(folder, "first");
  const double loss = train(config, ranks, 1, 2, 1).at(0).at("loss");

  const auto mesh = sub_mesh(1, cpu_mesh(), config.model.moe.experts);
  if (test_session().world()->rank() == 0) {
    Transformer model(config.model, at::kDouble, *mesh);
    const ParameterBuckets buckets(model.parameters(), *mesh, ParameterBuckets::kBucketBytes, /*trained=*/false);
    draw_initial_values(model.parameters(), static_cast<uint64_t>(config.run.seed));
    const SampleBlend samples(config.data.training(), 24, static_cast<uint64_t>(config.run.seed), true, {.document_mask = true});
    const auto documents = pieces(samples, config.train.global_batch, 24);
    EXPECT_GT(documents.size(), 10u) << "the samples are packed";
    EXPECT_NEAR(loss, loss_of_documents_alone(model, *mesh, documents), 1e-12 * loss);
  }
  test_session().world()->patient_barrier();
}

TEST(DocumentMaskRanks, EveryLayoutMicroBatchAndPolicyTrainsTheSameModel) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  const auto of = [&](const std::string& name) {
    TrainConfig config = packed_config(folder, name);
    config.model.moe.balance = {.switch_loss = 0.0, .z_loss = 1e-3};  // the same at any number of micro-steps
    return config;
  };
  const auto alone = train(of("alone"), 1, 1, 7);
  ASSERT_EQ(alone.size(), 6u);
  EXPECT_LT(alone.back().at("loss").get<double>(), alone.front().at("loss").get<double>());
  ASSERT_TRUE(alone.back().contains("validation_loss"));
  TrainConfig without = of("without");
  without.data.document_mask = false;
  EXPECT_GT(std::abs(train(without, 1, 1, 7)[0].at("loss").get<double>() - alone[0].at("loss").get<double>()), 1e-6);
  for (int64_t expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
    if (ranks % expert_parallel != 0) continue;
    for (const auto& [micro_batch, policy] :
         {std::pair<int64_t, RecomputePolicy>{1, RecomputePolicy::kFull}, {2, RecomputePolicy::kNone}}) {
      SCOPED_TRACE(concat("EP ", expert_parallel, " micro-batch ", micro_batch, " policy ", static_cast<int>(policy)));
      TrainConfig config = of(concat("run-", expert_parallel, "-", micro_batch, "-", static_cast<int>(policy)));
      config.train.recompute = policy;
      expect_same(train(config, ranks, expert_parallel, micro_batch), alone, 1e-10);
    }
  }
}

TEST(DocumentMaskRanks, ARunGoesOnAtAnotherRankCountWithTheSameLosses) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  const auto of = [&](const std::string& name) {
    TrainConfig config = packed_config(folder, name);
    config.data.train.clear();
    config.data.blend = {{(folder.path() / "corpus").string(), 0.6}, {(folder.path() / "repeats").string(), 0.4}};
    config.checkpoint.resume = "auto";
    config.train.validate_every = 0;
    config.model.moe.balance = {.switch_loss = 0.0, .z_loss = 1e-3};
    return config;
  };
  const auto whole = train(of("whole"), 1, 1, 7);
  train(of("parts"), ranks, 1, 2, 3);
  expect_same(train(of("parts"), 1, 1, 7), whole, 1e-10);
}

// Also what is left at the corpus' end, and at rank counts that share nothing out evenly.
TEST(DocumentMaskRanks, TheValidationLossIsThatOfTheCorpusDocumentsEachAlone) {
  const SharedFolder folder;
  const int ranks = test_session().world()->size();
  const TrainConfig config = packed_config(folder, "validation");
  const TokenFile corpus(config.data.validation);
  for (const int64_t batches : {0, 3}) {
    const ValidationPlan plan{.batch = 5, .micro_batch = 2, .batches = batches, .document_mask = true};
    const ValidationPart part(corpus, 24, plan);
    std::vector<int64_t> ids(static_cast<size_t>(part.read) + 1);
    corpus.read(0, part.read + 1, ids.data());
    std::vector<std::vector<int64_t>> documents;
    for (int64_t begin = 0; begin < part.read; begin += 24) {  // as the sequences cut them; neighbours share a token
      const int64_t count = std::min<int64_t>(24, part.read - begin) + 1;
      std::vector<int64_t> starts = DocumentStarts(corpus).inside(begin, count);
      starts.insert(starts.begin(), 0);
      starts.push_back(count);
      for (size_t i = 0; i + 1 < starts.size(); ++i) {
        documents.emplace_back(ids.begin() + begin + starts[i], ids.begin() + begin + starts[i + 1]);
      }
    }
    int64_t targets = 0;
    for (const auto& document : documents) targets += static_cast<int64_t>(document.size()) - 1;
    EXPECT_EQ(part.targets, targets);
    EXPECT_LT(part.targets, part.read);

    const auto loss_on = [&](int count, bool alone) {
      const auto mesh = sub_mesh(count, {.expert_parallel = 1, .device = DeviceChoice::kCpu}, config.model.moe.experts);
      double loss = 0.0;
      if (test_session().world()->rank() < count) {
        Transformer model(config.model, at::kDouble, *mesh);
        const ParameterBuckets buckets(model.parameters(), *mesh, ParameterBuckets::kBucketBytes, /*trained=*/false);
        draw_initial_values(model.parameters());
        loss = alone ? loss_of_documents_alone(model, *mesh, documents) : validation_loss(model, corpus, plan, *mesh).value();
      }
      test_session().world()->patient_barrier();
      return loss;
    };
    const double expected = loss_on(1, /*alone=*/true);
    const double found = loss_on(ranks, /*alone=*/false);
    if (test_session().world()->rank() == 0) {
      EXPECT_NEAR(found, expected, 1e-12 * expected);
    }
  }
}

TEST(DocumentMaskRanks, CorporaWithoutATokenToPredictAreRefusedOnEveryRank) {
  const SharedFolder folder;
  if (test_session().world()->rank() == 0) {
    TokenFileWriter writer(folder.path() / "ones", 23);
    for (int32_t id = 0; id < 200; ++id) {
      writer.add({id % 23});
      writer.end_document();
    }
    writer.finish();
  }
  test_session().world()->patient_barrier();
  TrainConfig config = packed_config(folder, "refused");
  config.mesh.expert_parallel = 1;
  const auto mesh = sub_mesh(test_session().world()->size(), config.mesh, config.model.moe.experts);
  Logger log(1);
  config.data.validation = (folder.path() / "ones").string();
  EXPECT_THROW(Trainer(config, *mesh, log, nullptr), DataError);
  std::swap(config.data.validation, config.data.train);
  EXPECT_THROW(Trainer(config, *mesh, log, nullptr), DataError);
  config.data.document_mask = false;
  EXPECT_NO_THROW(Trainer(config, *mesh, log, nullptr));
  test_session().world()->patient_barrier();
}

}  // namespace
}  // namespace pimoe
