#include "checkpoint/comparison.h"

#include "checkpoint/tiny_checkpoint.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <limits>

namespace pimoe {
namespace {

class Comparison : public ::testing::Test {
 protected:
  CheckpointComparison compare(const Snapshot& first, const Snapshot& second) {
    for (const char* name : {"a", "b"}) std::filesystem::remove_all(folder_.path() / name);
    save_snapshot(folder_.path() / "a", first, 50);
    save_snapshot(folder_.path() / "b", second);
    return compare_checkpoints(folder_.path() / "a", folder_.path() / "b");
  }

  TemporaryFolder folder_;
};

TEST_F(Comparison, IgnoresLayoutFormatAndConfig) {
  Snapshot other = tiny_snapshot(100);
  other.config = "run: {seed: 1}\n";
  other.pieces.erase(other.pieces.begin() + 1, other.pieces.begin() + 4);
  other.pieces.push_back(filled("master", {"layers.0.experts", Box::whole({4, 2, 3}), 0, 24}, at::kDouble));
  const CheckpointComparison found = compare(tiny_snapshot(100), other);
  EXPECT_TRUE(found.same());
  EXPECT_TRUE(found.config_differs);
  EXPECT_EQ(found.equal_tensors, 5);
}

TEST_F(Comparison, SaysHowFarTheValuesOfATensorAreApart) {
  Snapshot other = tiny_snapshot(100);
  other.pieces[3].values = other.pieces[3].values.clone();  // rows 2 and 3 of the experts: elements 12 to 23
  ASSERT_EQ(other.pieces[3].values[4].item<float>(), static_cast<float>(element_value("master", "layers.0.experts", 16)));
  const float before = other.pieces[3].values[4].item<float>();
  other.pieces[3].values[4] = before + 50;
  other.pieces[3].values[5] += 0.5;
  const CheckpointComparison found = compare(tiny_snapshot(100), other);
  ASSERT_EQ(found.values.size(), 1U);
  EXPECT_FALSE(found.same());
  EXPECT_EQ(found.values[0].tensor, "master/layers.0.experts");
  EXPECT_EQ(found.values[0].elements, 24);
  EXPECT_EQ(found.values[0].different, 2);
  EXPECT_EQ(found.values[0].max_absolute, 50.0);
  EXPECT_EQ(found.values[0].max_relative, 50.0 / (before + 50));
  EXPECT_EQ(found.equal_tensors, 4);
}

TEST_F(Comparison, TakesTwoNansForEqualAndOneForInfinitelyFar) {
  Snapshot first = tiny_snapshot(100);
  Snapshot second = tiny_snapshot(100);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  first.pieces[0].values[0] = nan;
  second.pieces[0].values[0] = nan;
  first.pieces[0].values[1] = 0.0;
  second.pieces[0].values[1] = -0.0;
  first.pieces[5].values[2] = nan;
  const CheckpointComparison found = compare(first, second);
  ASSERT_EQ(found.values.size(), 1U);
  EXPECT_EQ(found.values[0].tensor, "state/layers.0.router_bias");
  EXPECT_EQ(found.values[0].max_absolute, std::numeric_limits<double>::infinity());
}

TEST_F(Comparison, TellsWholeNumbersApartThatAreTheSameDouble) {
  Snapshot first = tiny_snapshot(100);
  Snapshot second = tiny_snapshot(100);
  first.pieces[6].values[0] = int64_t{1} << 53;
  second.pieces[6].values[0] = (int64_t{1} << 53) + 1;
  EXPECT_EQ(compare(first, second).values.size(), 1U);
}

TEST_F(Comparison, TellsWeightsFromOtherTensorsAndBothFromCounters) {
  Snapshot further = tiny_snapshot(100);
  further.counters["next_sample"] += 16;
  const CheckpointComparison counted = compare(tiny_snapshot(100), further);
  EXPECT_FALSE(counted.same());
  EXPECT_TRUE(counted.same_tensors());
  EXPECT_TRUE(counted.same_of("master"));

  Snapshot other = tiny_snapshot(100);
  other.pieces[5].values = other.pieces[5].values.clone();
  other.pieces[5].values[2] += 1;
  const CheckpointComparison biased = compare(tiny_snapshot(100), other);
  EXPECT_FALSE(biased.same_tensors());
  EXPECT_FALSE(biased.same_of("state"));
  EXPECT_TRUE(biased.same_of("master"));

  Snapshot fewer = tiny_snapshot(100);
  fewer.pieces[0].piece.name = "layers.0.other";
  EXPECT_FALSE(compare(tiny_snapshot(100), fewer).same_of("master")) << "one that only one of them has";
}

TEST_F(Comparison, NamesTensorsOfOneSideShapesAndState) {
  Snapshot other = tiny_snapshot(200);
  other.counters["next_sample"] = 3200;
  other.numbers.erase("tokens_seen");
  other.pieces[0] = filled("master", {"layers.0.norm", Box::whole({2, 3}), 0, 6}, at::kFloat);
  other.pieces.back().piece.name = "uses";
  const CheckpointComparison found = compare(tiny_snapshot(100), other);
  EXPECT_EQ(found.only_in_first, std::vector<std::string>{"state/calls"});
  EXPECT_EQ(found.only_in_second, std::vector<std::string>{"state/uses"});
  EXPECT_EQ(found.shapes, std::vector<std::string>{"master/layers.0.norm: [6] and [2, 3]"});
  EXPECT_EQ(found.state, (std::vector<std::string>{"step: 100 and 200", "numbers.tokens_seen: only in the first",
                                                   "counters.next_sample: 1600 and 3200"}));
}

}  // namespace
}  // namespace pimoe
