#include "app/tiny_model.h"
#include "app/user.h"

namespace pimoe {
namespace {

using Json = nlohmann::json;

class ParityCommand : public User {
 protected:
  ParityCommand() { write("tiny.yaml", kTinyModel); }

  Outcome parity(int ranks, const std::string& arguments, const std::string& environment = "") const {
    return run(concat(environment, " $MPIRUN -n ", ranks, " $PIMOE parity tiny.yaml ", arguments));
  }

  void expect_agrees(int ranks, const std::string& arguments) const {
    SCOPED_TRACE(concat(ranks, " ranks ", arguments));
    const Outcome outcome = parity(ranks, arguments + " --json");
    EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
    const Json document = Json::parse(outcome.out, nullptr, false);
    ASSERT_TRUE(document.is_object()) << outcome.out;
    EXPECT_TRUE(document.at("agrees").get<bool>());
    for (const Json& quantity : document.at("quantities")) {
      EXPECT_TRUE(quantity.at("layout_loop").is_object()) << quantity << " was compared with the loop";
    }
  }
};

TEST_F(ParityCommand, LayoutsOneRankAndTheLoopAgreeInFloat64) {
  const std::string groups = "model.moe.router.kind=sigmoid model.moe.router.groups=2 model.moe.router.group_choices=1 ";
  for (const int ranks : {1, 2, 4}) {
    expect_agrees(ranks, "");
    expect_agrees(ranks, groups + "model.moe.shared_width=6 model.qk_norm=true model.tie_embeddings=true");
  }
  expect_agrees(2, "model.tie_embeddings=true model.moe.router.pre_softmax=false model.moe.router.jitter=0.1 train.recompute=full");
  expect_agrees(4, "model.qk_norm=true mesh.expert_parallel=2 model.moe.balance.sequence_loss=0.1 model.moe.balance.step_loss=0.1");
  expect_agrees(2, "model.moe.router.kind=expert_choice model.moe.fallback_width=5");
  expect_agrees(2, "model.moe.router.kind=hash model.moe.first_dense_layers=1");
  expect_agrees(2, "model.moe.experts=0");
  expect_agrees(2, "model.qk_norm=true model.qk_norm_over=projection train.recompute=full");
}

TEST_F(ParityCommand, EveryKindOfAttentionAgreesInFloat64) {
  const std::string latent =
      "model.latent.kv_rank=10 model.latent.plain_width=6 model.latent.rotary_width=4 model.latent.value_width=8 "
      "model.moe.router.kind=sigmoid model.moe.shared_width=6 ";
  const std::string yarn = "model.rotary.scaling=yarn model.rotary.factor=4 model.rotary.original_length=4 ";
  for (const int experts : {1, 2}) {
    const std::string layout = concat("mesh.expert_parallel=", experts, " ");
    expect_agrees(2, layout + latent + "model.latent.query_rank=6 " + yarn + "model.rotary.mscale=1 model.rotary.mscale_all_dim=0.7");
    expect_agrees(2, layout + latent + "model.latent.interleaved=false model.latent.value_width=12 train.recompute=full");
    expect_agrees(2, layout + "model.qkv_bias=true model.moe.shared_width=6 model.moe.shared_gate=true model.moe.router.renormalize=false");
    expect_agrees(2, layout + yarn + "model.qk_norm=true model.rotary.truncate=false model.rotary.attention_factor=1.2");
    expect_agrees(2, layout + "model.rotary.scaling=llama3 model.rotary.factor=8 model.rotary.original_length=16");
    expect_agrees(2, layout + "model.rotary.scaling=linear model.rotary.factor=3");
  }
}

TEST_F(ParityCommand, AttentionInsideDocumentsAgreesInFloat64) {
  const std::string masked = "data.document_mask=true model.sequence_length=24 ";
  for (const int ranks : {1, 2, 3}) expect_agrees(ranks, masked + "model.moe.experts=6 train.recompute=full model.qk_norm=true");
  expect_agrees(2, masked +
                       "model.latent.kv_rank=10 model.latent.query_rank=6 model.latent.plain_width=6 model.latent.rotary_width=4 "
                       "model.latent.value_width=8 model.rotary.scaling=yarn model.rotary.factor=4 model.rotary.original_length=4");
  expect_agrees(2, masked + "model.qkv_bias=true model.rotary.scaling=llama3 model.rotary.factor=8 model.rotary.original_length=16");
  std::string lines;
  for (int line = 0; line < 300; ++line) lines += concat("{\"text\": \"the ", line % 7, " cats sat on ", line % 11, " mats\"}\n");
  write("texts.jsonl", lines);
  ASSERT_EQ(run("pimoe data build --output corpus --vocabulary 300 --validation 0 texts.jsonl").code, 0);
  expect_agrees(2, masked + "data.train=corpus model.vocabulary=300");
}

TEST_F(ParityCommand, LowPrecisionsAgreeWithinTheirRoundings) {
  for (const char* precision : {"float32", "bfloat16", "float16"}) {
    for (const int ranks : {2, 4}) expect_agrees(ranks, concat("train.precision=", precision));
    expect_agrees(2,
                  concat("train.precision=", precision, " model.latent.kv_rank=10 model.latent.plain_width=6 model.latent.rotary_width=4 ",
                         "model.latent.value_width=8 model.moe.shared_width=6 model.moe.shared_gate=true"));
  }
}

TEST_F(ParityCommand, ABrokenGradientIsNamed) {
  for (const char* precision : {"float64", "float32", "bfloat16"}) {
    for (const char* name : {"layers.1.moe.experts.down.weight", "head.weight"}) {
      SCOPED_TRACE(concat(precision, " ", name));
      // One rank's: all of the sum on one rank, so that even bfloat16 must see a tenth.
      const Outcome outcome = parity(1, concat("train.precision=", precision), concat("PIMOE_PARITY_BREAK=", name));
      EXPECT_EQ(outcome.code, 1) << outcome.out << outcome.err;
      EXPECT_NE(outcome.err.find(concat("gradient of ", name)), std::string::npos) << outcome.err;
      EXPECT_NE(outcome.out.find("DIFFERS"), std::string::npos) << outcome.out;
    }
  }
  const Outcome outcome = parity(2, "", "PIMOE_PARITY_BREAK=layers.0.moe.router.weight");
  EXPECT_EQ(outcome.code, 1) << outcome.out << outcome.err;
  EXPECT_NE(outcome.err.find("gradient of layers.0.moe.router.weight"), std::string::npos) << outcome.err;
}

TEST_F(ParityCommand, WhatChangesWithTheLayoutIsLeftOutAloud) {
  const Outcome outcome = parity(2, "model.moe.capacity_factor=1 model.moe.balance.local_loss=0.1");
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  for (const char* key : {"capacity_factor is left out", "local_loss is left out", "--sequences", "no data.train"}) {
    EXPECT_NE(outcome.out.find(key), std::string::npos) << key << "\n" << outcome.out;
  }
}

TEST_F(ParityCommand, AgreesWhereActivationsSaturateAndSaysWhereNumbersLeaveTheirRange) {
  expect_agrees(2, "model.initial_deviation=300");
  expect_agrees(1, "model.initial_deviation=300 model.moe.router.kind=sigmoid");
  const Outcome uncertain = parity(1, "model.initial_deviation=10000");
  EXPECT_EQ(uncertain.code, 1) << uncertain.out << uncertain.err;
  EXPECT_NE(uncertain.out.find("attention scores reach "), std::string::npos) << uncertain.out;
  const Outcome outcome = parity(1, "model.initial_deviation=10000 train.precision=float16");
  EXPECT_EQ(outcome.code, 1) << outcome.out << outcome.err;
  EXPECT_NE(outcome.out.find("numbers leave the range of their type, first in "), std::string::npos) << outcome.out;
}

TEST_F(ParityCommand, TakesAdaptiveControlAndLeavesRecordedDecisionsOut) {
  expect_agrees(2, "model.moe.adaptive.enabled=true model.moe.router.temperature=1.5");
  const Outcome outcome = parity(1, "model.moe.router.replay=nowhere");
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_NE(outcome.out.find("router.replay is left out"), std::string::npos) << outcome.out;
}

TEST_F(ParityCommand, TakesTheCorpusThatTrainingWouldRead) {
  prepare();
  const Outcome outcome = run("$MPIRUN -n 2 $PIMOE parity tiny.yaml --sequences 3 --json");
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out).at("sequences"), 3);
  EXPECT_EQ(outcome.out.find("drawn at random"), std::string::npos) << outcome.out;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs")) << "parity writes nothing";
}

}  // namespace
}  // namespace pimoe
