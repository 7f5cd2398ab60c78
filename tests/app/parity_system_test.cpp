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

TEST_F(ParityCommand, LowPrecisionsAgreeWithinTheirRoundings) {
  for (const char* precision : {"float32", "bfloat16", "float16"}) {
    for (const int ranks : {2, 4}) expect_agrees(ranks, concat("train.precision=", precision));
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
