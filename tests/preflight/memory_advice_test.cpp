#include "preflight/memory_advice.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

TrainConfig large_activations() {
  TrainConfig config;
  config.model.vocabulary = 1000;
  config.model.sequence_length = 4096;
  config.model.layers = 8;
  config.train.global_batch = 64;
  config.train.micro_batch = 16;
  return config;
}

TEST(MemoryAdvice, NamesPartsAndWhatGivesMost) {
  const std::string advice = memory_advice(large_activations(), {.ranks = 4, .node_ranks = 4, .on_gpu = true, .dtype = at::kBFloat16});
  for (const char* part : {"weights ", "optimizer ", "experts ", "attention ", "residual stream "}) {
    EXPECT_NE(advice.find(part), std::string::npos) << part << "\n" << advice;
  }
  EXPECT_NE(advice.find("train.recompute=full: "), std::string::npos) << advice;
  EXPECT_NE(advice.find("train.micro_batch=4: "), std::string::npos) << advice;
  EXPECT_NE(advice.find(" less"), std::string::npos) << advice;
}

// The first remedy takes no less than the second.
TEST(MemoryAdvice, TheLargestRemedyStandsFirst) {
  const std::string advice = memory_advice(large_activations(), {.ranks = 1, .node_ranks = 1, .on_gpu = true, .dtype = at::kBFloat16});
  const size_t list = advice.find("each alone:");
  ASSERT_NE(list, std::string::npos);
  const size_t quarter = advice.find("train.micro_batch=4", list);
  const size_t half = advice.find("train.micro_batch=8", list);
  ASSERT_NE(quarter, std::string::npos) << advice;
  EXPECT_LT(quarter, half) << advice;
}

}  // namespace
}  // namespace pimoe
