#include "base/text.h"
#include "train/tiny_run.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pimoe {
namespace {

nlohmann::json first_record(TrainConfig config) {
  config.train.steps = 1;
  {
    const auto mesh = world_mesh(config.mesh, config.model.moe.experts);
    Logger log(1);
    Trainer(config, *mesh, log, nullptr).run();
  }
  test_session().world()->patient_barrier();
  return records_of(config).at(0);
}

// A router that spreads tokens evenly whatever they are: 2 slots of each sequence of 8 tokens for each of 8 experts, in every layout.
TrainConfig even_config(const SharedFolder& folder) {
  TrainConfig config = tiny_config(folder, "run");
  config.model.moe.router.kind = RouterKind::kUniform;
  config.train.micro_batch = 1;  // several micro-steps
  return config;
}

TEST(RoutingMetrics, EveryBalanceLossIsOneAtBalanceAndScaledByItsCoefficient) {
  const SharedFolder folder;
  TrainConfig config = even_config(folder);
  config.model.moe.balance = {.switch_loss = 0.5, .sequence_loss = 0.25, .step_loss = 0.125, .local_loss = 2.0, .z_loss = 0.1};
  const nlohmann::json record = first_record(config);
  double sum = 0.0;
  for (const auto& [key, coefficient] :
       {std::pair{"moe/balance_loss", 0.5}, {"moe/sequence_loss", 0.25}, {"moe/step_loss", 0.125}, {"moe/local_loss", 2.0}}) {
    EXPECT_NEAR(record.at(key).get<double>(), 1.0, 1e-12) << key;
    EXPECT_NEAR(record.at(concat(key, "_scaled_worst")).get<double>(), coefficient, 1e-12) << key;
    EXPECT_NEAR(record.at(concat(key, "_scaled")).get<double>(), 2 * coefficient, 1e-12) << key << " of two layers";
    sum += 2 * coefficient;
  }
  EXPECT_EQ(record.at("moe/z_loss"), 0.0) << "this router has no logits";
  EXPECT_NEAR(record.at("moe/scaled_loss").get<double>(), sum, 1e-12);
  EXPECT_NEAR(record.at("moe/maxvio").get<double>(), 0.0, 1e-12);
  EXPECT_NEAR(record.at("moe/entropy").get<double>(), 1.0, 1e-12);
}

// Half of what an expert gets fits, in every rank's micro-batch.
TEST(RoutingMetrics, TheDroppedFractionIsOfAllSlots) {
  const SharedFolder folder;
  TrainConfig config = even_config(folder);
  config.model.moe.capacity_factor = 0.5;
  EXPECT_EQ(first_record(config).at("moe/dropped_fraction_layers"), (std::vector<double>{0.5, 0.5}));
}

}  // namespace
}  // namespace pimoe
