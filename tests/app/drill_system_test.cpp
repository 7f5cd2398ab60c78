#include "app/user.h"

namespace pimoe {
namespace {

class DrillCommand : public User {
 protected:
  void SetUp() override { prepare(); }

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

}  // namespace
}  // namespace pimoe
