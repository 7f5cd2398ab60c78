#include "app/user.h"

namespace pimoe {
namespace {

using Json = nlohmann::json;

class ParityCommand : public User {
 protected:
  ParityCommand() {
    write("tiny.yaml", R"(mesh: {device: cpu}
model: {layers: 2, width: 16, heads: 2, kv_heads: 1, sequence_length: 8, vocabulary: 23, initial_deviation: 0.1,
        moe: {experts: 4, choices: 2, expert_width: 12}}
train: {global_batch: 5, micro_batch: 1, precision: float64, threads: 1}
)");
  }

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

using DrillCommand = ParityCommand;

TEST_F(DrillCommand, EveryDrillHolds) {
  const Outcome listed = run("$PIMOE drill list --json");
  ASSERT_EQ(listed.code, 0) << listed.err;
  const Json drills = Json::parse(listed.out);
  EXPECT_EQ(drills.size(), 9u);
  for (const Json& drill : drills) {
    ASSERT_EQ(drill.size(), 2u) << drill;
    EXPECT_FALSE(drill.at("holds").get<std::string>().empty());
    for (const int ranks : {1, 2}) {
      SCOPED_TRACE(concat(drill.at("name"), " on ", ranks));
      const Outcome outcome = run(concat("$MPIRUN -n ", ranks, " $PIMOE drill ", drill.at("name").get<std::string>(), " tiny.yaml --json"));
      EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
      EXPECT_TRUE(Json::parse(outcome.out).at("held").get<bool>());
      EXPECT_GE(Json::parse(outcome.out).at("checks").size(), 3u);
    }
  }
}

TEST_F(DrillCommand, HoldsInLowPrecisionAndWithOtherRouters) {
  for (const char* drill :
       {"one_expert train.precision=bfloat16", "rotating_hot_spot train.precision=float32 model.moe.router.kind=sigmoid",
        "nonfinite_input train.precision=float16", "huge_logit train.precision=bfloat16",
        "empty_rank train.precision=float32 model.moe.choices=4", "ties model.moe.router.kind=expert_choice",
        "one_expert model.moe.capacity_factor=1"}) {
    std::string words = drill;
    words.insert(words.find(' '), " tiny.yaml");
    const Outcome outcome = run(concat("$MPIRUN -n 2 $PIMOE drill ", words));
    EXPECT_EQ(outcome.code, 0) << words << "\n" << outcome.out << outcome.err;
  }
}

TEST_F(DrillCommand, Float16MaySkipStepsWhileItsLossScaleFallsAndSaysSo) {
  for (const int ranks : {1, 2}) {
    const Outcome outcome = run(concat("$MPIRUN -n ", ranks, " $PIMOE drill huge_logit tiny.yaml train.precision=float16"));
    EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
    EXPECT_NE(outcome.out.find("skipped while the loss scale fell from 1024"), std::string::npos) << outcome.out;
  }
}

TEST_F(DrillCommand, SaysWhatItLeavesOut) {
  const Outcome outcome = run("$PIMOE drill ties tiny.yaml model.moe.adaptive.enabled=true model.moe.router.replay=nowhere");
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  for (const char* key : {"model.moe.adaptive is left out", "model.moe.router.replay is left out"}) {
    EXPECT_NE(outcome.out.find(key), std::string::npos) << key << "\n" << outcome.out;
  }
}

TEST_F(DrillCommand, RefusesWhatIsNoDrill) {
  const Outcome outcome = run("$PIMOE drill one_exprt tiny.yaml");
  EXPECT_EQ(outcome.code, 64);
  EXPECT_NE(outcome.err.find("one_expert"), std::string::npos) << outcome.err;
  EXPECT_EQ(run("$PIMOE drill one_expert").code, 64);
  EXPECT_EQ(run("$PIMOE drill one_expert tiny.yaml model.moe.experts=0").code, 78);
}

}  // namespace
}  // namespace pimoe
