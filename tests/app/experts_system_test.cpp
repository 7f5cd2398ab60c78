#include "app/user.h"

#include <numeric>

namespace pimoe {
namespace {

using ExpertsCommand = User;

double sum(const nlohmann::json& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), 0.0,
                         [](double total, const nlohmann::json& each) { return total + each.get<double>(); });
}

TEST_F(ExpertsCommand, CountsEverySlotOfTheTextOnceInEachLayer) {
  prepare();
  ASSERT_EQ(run("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=12").code, 0);
  const Outcome outcome = run("pimoe experts runs/tiny --batches 6 --classes prose --json --svg experts.svg");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto report = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(report.at("checkpoint"), "runs/tiny/checkpoints/step-00000012");
  EXPECT_EQ(report.at("data"), "corpus") << "the tiny run has no validation corpus";
  EXPECT_EQ(report.at("tokens"), 6 * 5 * 16);
  EXPECT_EQ(report.at("classes").size(), 4u);
  ASSERT_EQ(report.at("layers").size(), 2u);
  for (const auto& layer : report.at("layers")) {
    EXPECT_EQ(layer.at("slots"), 2 * report.at("classed_tokens").get<int64_t>());
    EXPECT_NEAR(sum(layer.at("base_rates")), 1.0, 1e-12);
    ASSERT_EQ(layer.at("groups").size(), 1u);
    const auto& experts = layer.at("groups")[0].at("experts");
    ASSERT_EQ(experts.size(), 4u);
    int64_t slots = 0;
    for (const auto& expert : experts) {
      slots += expert.at("slots").get<int64_t>();
      EXPECT_NEAR(sum(expert.at("shares")), expert.at("slots") > 0 ? 1.0 : 0.0, 1e-12);
    }
    EXPECT_EQ(slots, layer.at("slots"));
    const auto& information = layer.at("information");
    EXPECT_LE(information.at("bits"), layer.at("class_entropy_bits"));
    EXPECT_GE(information.at("p_value"), 0.01);
  }
  EXPECT_TRUE(read_file(folder_ / "experts.svg").starts_with("<svg xmlns"));
  EXPECT_EQ(run("pimoe experts runs/tiny --batches 6 --classes prose --json").out, outcome.out) << "the same again";

  const Outcome table = run("pimoe experts runs/tiny/checkpoints/step-00000010 --data corpus");
  ASSERT_EQ(table.code, 0) << table.err;
  for (const char* part : {"identifier", "layer 1", "mutual information", "Not measured"}) {
    EXPECT_NE(table.out.find(part), std::string::npos) << part << "\n" << table.out;
  }
}

TEST_F(ExpertsCommand, SaysWhatItCannotMeasure) {
  prepare();
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=1 model.moe.experts=0").code, 0);
  const Outcome dense = run("pimoe experts runs/tiny");
  EXPECT_EQ(dense.code, 65) << dense.err;
  EXPECT_NE(dense.err.find("no MoE layer"), std::string::npos) << dense.err;
  EXPECT_EQ(run("pimoe experts nowhere").code, 65);
  EXPECT_EQ(run("pimoe experts runs/tiny --classes latin").code, 64);
  EXPECT_EQ(run("pimoe experts").code, 64);
}

}  // namespace
}  // namespace pimoe
