#include "train/train_config.h"

#include "base/errors.h"
#include "base/text.h"
#include "train/resume.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

constexpr const char* kSmall =
    "data: {train: corpus}\nmodel: {layers: 2, width: 32, heads: 2, kv_heads: 1, vocabulary: 40, moe: {experts: 4}}\noptimizer: "
    "{warmup_steps: 5}\n";

std::string refusal(const std::string& more) {
  try {
    parse_train_config(kSmall + more, "a.yaml");
    return "accepted";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

TEST(TrainConfig, ATokenCountBeyond64BitsIsRefused) {
  EXPECT_EQ(refusal("train: {steps: 1000000, global_batch: 16777216}\n"), "accepted");
  EXPECT_NE(refusal("train: {steps: 1000000000000, global_batch: 16777216}\n").find("train.global_batch (16777216)"), std::string::npos);
}

// A float32 holds none of these, and a tensor times one of them would end a run in its first step.
TEST(TrainConfig, NumbersThatAFloat32CannotHoldAreRefused) {
  for (const char* key : {"balance: {switch_loss", "balance: {step_loss", "balance: {sequence_loss", "balance: {local_loss",
                          "balance: {z_loss", "balance: {bias_rate", "router: {route_scale", "router: {temperature",
                          "router: {initial_skew", "adaptive: {bias_rate_start", "adaptive: {bias_rate_min", "adaptive: {bias_rate_max",
                          "adaptive: {switch_loss_max", "adaptive: {temperature_max", "adaptive: {target_maxvio"}) {
    const std::string text = concat("data: {train: corpus}\nmodel: {vocabulary: 40, moe: {", key, ": 1e300}}}\n");
    try {
      parse_train_config(text, "a.yaml");
      ADD_FAILURE() << key;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find("at most 1e+06"), std::string::npos) << error.what();
    }
  }
  for (const char* key : {"learning_rate", "weight_decay", "epsilon", "clip_norm"}) {
    const std::string text = concat("data: {train: corpus}\nmodel: {vocabulary: 40}\noptimizer: {", key, ": 1e300}\n");
    EXPECT_THROW(parse_train_config(text, "a.yaml"), ConfigError) << key;
  }
}

TEST(TrainConfig, AModelTooLargeToCountIsRefused) {
  TrainConfig config = parse_train_config(kSmall, "a.yaml");
  config.model.layers = 10'000;
  config.model.width = 1 << 20;
  config.model.feed_forward_width = 1 << 24;
  config.model.moe.expert_width = 1 << 24;
  EXPECT_NE(refusal("").find("accepted"), std::string::npos);
  try {
    parse_train_config(to_yaml(config), "a.yaml");
    FAIL() << "2e18 parameters were accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("parameters"), std::string::npos) << error.what();
  }
}

TEST(TrainConfig, ExpertsThatCannotBeSharedOutAreRefusedWithWhatWouldWork) {
  EXPECT_NE(refusal("mesh: {expert_parallel: 3}\n")
                .find("model.moe.experts (4) must be divisible by mesh.expert_parallel (3). Nearest that works: 3 or 6, or expert_parallel "
                      "1, 2, 4"),
            std::string::npos)
      << refusal("mesh: {expert_parallel: 3}\n");
}

TEST(TrainConfig, ANulInAPathIsRefused) {
  // The system would take what stands before it.
  EXPECT_NE(refusal("run: {directory: \"runs/a\\0b\"}\n").find("run.directory: must not have a NUL"), std::string::npos);
}

TEST(TrainConfig, WhatIsSeldomMeantIsDoubted) {
  TrainConfig config = parse_train_config(kSmall, "a.yaml");
  EXPECT_TRUE(doubts_about(config, 1).empty());
  config.model.moe.first_dense_layers = 2;
  config.optimizer.warmup_steps = config.train.steps;
  const auto doubts = doubts_about(config, 1);
  ASSERT_EQ(doubts.size(), 2u);
  EXPECT_NE(doubts[0].find("first_dense_layers (2)"), std::string::npos);
  EXPECT_NE(doubts[1].find("warmup_steps (300)"), std::string::npos);
}

TEST(ChangesOfData, NameWhatWasAndWhatIs) {
  const TrainConfig saved = parse_train_config(kSmall, "a.yaml");
  TrainConfig wanted = saved;
  EXPECT_TRUE(changes_of_data(saved, {}, wanted, {}).empty());
  wanted.data.train = "other";
  wanted.data.validation = "held-out";
  wanted.data.tokenizer = "t.model";
  wanted.run.seed = 7;
  const auto changes = changes_of_data(saved, {}, wanted, {});
  ASSERT_EQ(changes.size(), 4u);
  EXPECT_EQ(changes[1].find("data.train: corpus in the checkpoint, other now; "), 0u) << changes[1];
  EXPECT_EQ(changes[3].find("data.validation: empty in the checkpoint, held-out now; "), 0u) << changes[3];
}

DataFacts facts_of(int64_t tokens, int64_t fingerprint) {
  return {{"data.train.tokens", tokens}, {"data.train.fingerprint", fingerprint}, {"data.tokenizer.fingerprint", fingerprint}};
}

TEST(ChangesOfData, FilesThatWereBuiltAgainAreOtherDataAndMovedOnesAreNot) {
  const TrainConfig saved = parse_train_config(kSmall, "a.yaml");
  TrainConfig moved = saved;
  moved.data.train = "elsewhere/corpus";
  EXPECT_TRUE(changes_of_data(saved, facts_of(1000, 5), saved, facts_of(1000, 5)).empty());
  EXPECT_TRUE(changes_of_data(saved, facts_of(1000, 5), moved, facts_of(1000, 5)).empty());
  EXPECT_EQ(changes_of_data(saved, {}, moved, facts_of(1000, 5)).size(), 1u) << "a checkpoint without facts";

  const auto longer = changes_of_data(saved, facts_of(1000, 5), saved, facts_of(1200, 6));
  ASSERT_EQ(longer.size(), 2u);
  EXPECT_EQ(longer[0].find("data.train: corpus was built again: 1,000 tokens in the checkpoint, 1,200 now; another corpus"), 0u)
      << longer[0];
  EXPECT_EQ(longer[1].find("data.tokenizer: "), 0u) << longer[1];
  const auto as_long = changes_of_data(saved, facts_of(1000, 5), saved, facts_of(1000, 6));
  ASSERT_EQ(as_long.size(), 2u);
  EXPECT_EQ(as_long[0].find("data.train: corpus was built again: other content than in the checkpoint; "), 0u) << as_long[0];
}

TEST(ChangesOfData, OfABlendAreToldOfTheCorpusAndOfTheShares) {
  const TrainConfig plain = parse_train_config(kSmall, "a.yaml");
  TrainConfig saved = plain;
  saved.data.train.clear();
  saved.data.blend = {{"web", 2}, {"code", 1}};
  const DataFacts facts = {
      {"data.train[0].tokens", 1000}, {"data.train[0].fingerprint", 5}, {"data.train[1].tokens", 500}, {"data.train[1].fingerprint", 6}};
  TrainConfig same = saved;
  same.data.blend = {{"moved/web", 4}, {"code", 2}};
  EXPECT_TRUE(changes_of_data(saved, facts, same, facts).empty()) << "the same shares of the same corpora";

  TrainConfig other = saved;
  other.data.blend = {{"web", 1}, {"code", 1}};
  const auto weights = changes_of_data(saved, facts, other, facts);
  ASSERT_EQ(weights.size(), 1u);
  EXPECT_EQ(weights[0].find("data.train: weights 2, 1 in the checkpoint, 1, 1 now; other shares from here on"), 0u) << weights[0];
  other.data.blend = {{"web", 2.000004}, {"code", 1}};
  const auto nearly = changes_of_data(saved, facts, other, facts);
  ASSERT_EQ(nearly.size(), 1u);
  EXPECT_EQ(nearly[0].find("data.train: weights 2, 1 in the checkpoint, 2.000004, 1 now; "), 0u) << nearly[0];

  DataFacts rebuilt = facts;
  rebuilt["data.train[1].tokens"] = 600;
  rebuilt["data.train[1].fingerprint"] = 7;
  const auto built = changes_of_data(saved, facts, saved, rebuilt);
  ASSERT_EQ(built.size(), 1u);
  EXPECT_EQ(built[0].find("data.train[1]: code was built again: 500 tokens in the checkpoint, 600 now; another corpus"), 0u) << built[0];

  other.data.blend = {{"web", 2}, {"code", 1}, {"books", 1}};
  const auto more = changes_of_data(saved, facts, other, facts);
  ASSERT_EQ(more.size(), 1u);
  EXPECT_EQ(more[0].find("data.train: web, code in the checkpoint, web, code, books now; another blend"), 0u) << more[0];
  EXPECT_EQ(changes_of_data(saved, facts, plain, facts).size(), 1u) << "of two to one";
}

TEST(TrainConfig, NoCorpusAndAnEmptyBlendAreRefusedWithWhatIsWanted) {
  for (const char* list : {"[]", ""}) {
    try {
      load_train_config(ConfigSource{kSmall, "a.yaml"}, {concat("data.train=", list)});
      FAIL() << list;
    } catch (const ConfigError& error) {
      EXPECT_EQ(std::string(error.what()).find("command line: data.train: must name a corpus, the PREFIX of"), 0u) << error.what();
    }
  }
}

TEST(ChangesOfData, AnImportedModelHadNone) {
  const TrainConfig saved = parse_train_config("model: {vocabulary: 40}\n", "a.yaml");
  TrainConfig wanted = saved;
  wanted.data.train = "corpus";
  wanted.run.seed = 7;
  EXPECT_TRUE(changes_of_data(saved, {}, wanted, {}).empty());
}

TEST(RequireSameModel, NamesEachKeyByItsPathWithBothValues) {
  const TrainConfig saved = parse_train_config(kSmall, "a.yaml");
  TrainConfig wanted = saved;
  wanted.model.layers = 3;
  wanted.model.moe.experts = 16;
  wanted.model.moe.groups = {{.name = "a", .count = 16}};
  wanted.model.moe.balance.z_loss = 0.5;           // may differ
  wanted.model.moe.exchange = MoeExchange::kRows;  // likewise
  try {
    require_same_model(saved, wanted, "step-00000006");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what())
                  .find("the configuration's model is not the one of step-00000006:\n"
                        "  model.layers: 2 in the checkpoint, 3 now\n"
                        "  model.moe.experts: 4 in the checkpoint, 16 now\n"
                        "  model.moe.groups[0].name: nothing in the checkpoint, a now\n"),
              0u)
        << error.what();
    EXPECT_EQ(std::string(error.what()).find("z_loss"), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find("exchange"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace pimoe
