#include "train/router_state.h"

#include "base/errors.h"
#include "train/resume.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

const std::map<std::string, double> kMoved = {{"adaptive.temperature", 1.5625}, {"loss_scale", 1.0}};

TrainConfig with(bool adaptive, double temperature) {
  TrainConfig config;
  config.model.moe.adaptive.enabled = adaptive;
  config.model.moe.router.temperature = temperature;
  return config;
}

/// @returns what going on with `wanted` warns of; a checkpoint written under adaptive control, which moved 1 to 1.5625
std::string go_on(const TrainConfig& wanted) {
  TrainConfig saved = with(true, 1.0);
  const std::string warning = settle_temperature(saved, wanted, 1.5625);
  require_same_model(saved, wanted, "step-00000010");
  return warning;
}

TEST(SettleTemperature, WarnsOfBothWhereControlIsTurnedOff) {
  const std::string warning = go_on(with(false, 1.0));
  EXPECT_NE(warning.find("from 1.5625"), std::string::npos) << warning;
  EXPECT_NE(warning.find("back to 1,"), std::string::npos) << warning;
  EXPECT_NE(warning.find("model.moe.router.temperature=1.5625 keeps it"), std::string::npos) << warning;
}

TEST(SettleTemperature, AcceptsTheOneThatTheCheckpointReallyHas) {
  EXPECT_EQ(go_on(with(false, 1.5625)), "");
  EXPECT_EQ(go_on(with(true, 1.5625)), "");
}

TEST(SettleTemperature, IsSilentWhereControlGoesOn) { EXPECT_EQ(go_on(with(true, 1.0)), ""); }

TEST(SettleTemperature, LeavesAnotherOneToBeRefused) { EXPECT_THROW(go_on(with(false, 1.3)), ConfigError); }

TEST(TemperatureOf, IsTheConfiguredWhereControlWasOff) {
  EXPECT_EQ(temperature_of(with(false, 0.7), {{"loss_scale", 1.0}}), 0.7);
  EXPECT_EQ(temperature_of(with(true, 0.7), kMoved), 1.5625);
}

}  // namespace
}  // namespace pimoe
