#include "app/tiny_model.h"
#include "app/user.h"

namespace pimoe {
namespace {

using Json = nlohmann::json;

class DrillCommand : public User {
 protected:
  DrillCommand() { write("tiny.yaml", kTinyModel); }

  void expect_holds(const std::string& drill, const std::string& overrides, const std::string& note) const {
    const Outcome outcome = run(concat("$PIMOE drill ", drill, " tiny.yaml ", overrides));
    EXPECT_EQ(outcome.code, 0) << drill << " " << overrides << "\n" << outcome.out << outcome.err;
    EXPECT_NE(outcome.out.find(note), std::string::npos) << outcome.out;
  }
};

// Logits, unlike probabilities, have no bound: what steers a router must outweigh them.
TEST_F(DrillCommand, HoldsForARouterByLogitsWhateverTheirScale) {
  for (const char* drill : {"one_expert", "rotating_hot_spot", "empty_rank"}) {
    expect_holds(drill, "model.moe.router.pre_softmax=false model.moe.router.temperature=1e-4", "model.moe.router.temperature is 1 here");
    expect_holds(drill, "model.moe.router.pre_softmax=false model.moe.router.linear_bias=true model.moe.router.initial_skew=-5000",
                 "model.moe.router.initial_skew is 0 here");
  }
}

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
  expect_holds("huge_logit", "train.precision=float16 model.moe.balance.z_loss=3", "model.moe.balance.z_loss is 0.001 here");
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
