#include "compress/compression_report.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pimoe {
namespace {

TEST(UnchangedRows, CountsTokensAllOfWhoseExpertsAreTheSame) {
  const at::Tensor before = at::tensor({0, 1, 2, 3, 4, 5}, at::kInt).view({3, 2});
  const at::Tensor after = at::tensor({0, 1, 2, 4, 4, 5}, at::kInt).view({3, 2});
  EXPECT_EQ(unchanged_rows(before, after), (std::pair<int64_t, int64_t>{2, 3}));
  EXPECT_EQ(unchanged_rows(before, before.narrow(1, 0, 1)), (std::pair<int64_t, int64_t>{0, 3})) << "fewer choices";
  EXPECT_EQ(unchanged_rows(before.narrow(0, 0, 0), after.narrow(0, 0, 0)), (std::pair<int64_t, int64_t>{0, 0}));
}

TEST(UsedShare, IsOneAtBalanceAndOneExpertsShareWhereOneHasAll) {
  EXPECT_NEAR(used_share(at::tensor({7, 7, 7, 7}, at::kLong)), 1.0, 1e-12);
  EXPECT_NEAR(used_share(at::tensor({0, 9, 0, 0}, at::kLong)), 0.25, 1e-12);
  EXPECT_EQ(used_share(at::tensor({0, 0}, at::kLong)), 0.0);
}

CompressionReport sample() {
  CompressionReport report{.checkpoint = "runs/a/checkpoints/step-00000100",
                           .output = "runs/b",
                           .change = "int8 dynamic: experts",
                           .kernel = "avx512_vnni",
                           .step = 100,
                           .corpus = "data/held",
                           .tokens = 1000,
                           .size_before = {4000, 3000, 1000, 16},
                           .size_after = {1600, 800, 1000, 16},
                           .loss_before = 2.0,
                           .loss_after = 2.01,
                           .speed_before = {100.0, 10.0},
                           .speed_after = {150.0, std::nullopt}};
  report.layers = {{.layer = 0},
                   {.layer = 1, .agreement = 0.9, .output_error = 0.01, .worst_matrix = "layers.1.a"},
                   {.layer = 2, .agreement = 0.95, .output_error = 0.02, .worst_matrix = "layers.2.b"}};
  return report;
}

TEST(CompressionReport, NamesTheWorstLayerByEachMeasure) {
  const CompressionReport report = sample();
  EXPECT_EQ(report.worst_by_agreement()->layer, 1);
  EXPECT_EQ(report.worst_by_output()->layer, 2);
  EXPECT_NEAR(*report.agreement(), 0.925, 1e-12);
  EXPECT_NEAR(report.loss_increase(), 0.005, 1e-12);
  CompressionReport dense = report;
  dense.layers = {{.layer = 0}};
  EXPECT_EQ(dense.worst_by_agreement(), nullptr);
  EXPECT_FALSE(dense.agreement());
}

TEST(CompressionReport, SaysInJsonWhatItSaysInText) {
  const auto json = to_json(sample());
  EXPECT_EQ(json.at("after").at("bytes"), 1600);
  EXPECT_TRUE(json.at("after").at("decode_tokens_per_second").is_null());
  EXPECT_EQ(json.at("worst_layer_by_agreement"), 1);
  EXPECT_EQ(json.at("layers").size(), 3U);
  const std::string text = to_text(sample());
  for (const char* part : {"2.50 x less", "3.75 x less", "+0.500 %", "1.50 x", "avx512_vnni", "92.50 %", "layers.2.b"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
}

}  // namespace
}  // namespace pimoe
