#include "checkpoint/shard_plan.h"

#include "base/errors.h"
#include "checkpoint/tiny_checkpoint.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

StatePiece floats(const std::string& name, int64_t begin, int64_t end) {
  return filled("master", {name, Box::whole({100}), begin, end}, at::kFloat);
}

TEST(ShareOut, GivesCopiesToTheFirstRankThatHoldsThem) {
  const auto by_rank = std::vector{
      list_pieces({floats("a", 0, 9), floats("b", 0, 5)}),
      list_pieces({floats("a", 0, 9), floats("b", 5, 9)}),
      list_pieces({floats("c", 0, 1), floats("c", 0, 1), floats("a", 0, 8)}),
  };
  EXPECT_EQ(share_out(by_rank), (std::vector<std::vector<size_t>>{{0, 1}, {1}, {0, 2}}));
}

TEST(ShareOut, TellsBoxesAndKindsApart) {
  const StatePiece master = filled("master", {"a", Box::rows({4, 2}, 0, 2), 0, 4}, at::kFloat);
  const StatePiece other_rows = filled("master", {"a", Box::rows({4, 2}, 2, 2), 0, 4}, at::kFloat);
  const StatePiece moment = filled("exp_avg", {"a", Box::rows({4, 2}, 0, 2), 0, 4}, at::kFloat);
  EXPECT_EQ(share_out({list_pieces({master}), list_pieces({other_rows}), list_pieces({moment})}),
            (std::vector<std::vector<size_t>>{{0}, {0}, {0}}));
}

/// Each part as "name[begin,end)".
std::vector<std::vector<std::string>> ranges(const std::vector<std::vector<StatePiece>>& parts) {
  std::vector<std::vector<std::string>> texts;
  for (const auto& part : parts) {
    auto& text = texts.emplace_back();
    for (const StatePiece& state : part) {
      EXPECT_EQ(state.values.numel(), state.piece.numel());
      EXPECT_EQ(wrong_element(state), "");
      text.push_back(state.piece.name + "[" + std::to_string(state.piece.begin) + "," + std::to_string(state.piece.end) + ")");
    }
  }
  return texts;
}

TEST(PlanParts, FillsFilesAndCutsOnlyWhatIsLargerThanAFile) {
  using Texts = std::vector<std::vector<std::string>>;
  EXPECT_EQ(ranges(plan_parts({floats("a", 0, 3), floats("b", 2, 6), floats("c", 0, 4)}, 32)), (Texts{{"a[0,3)", "b[2,6)"}, {"c[0,4)"}}));
  EXPECT_EQ(ranges(plan_parts({floats("a", 1, 20), floats("b", 0, 5)}, 32)), (Texts{{"a[1,9)"}, {"a[9,17)"}, {"a[17,20)", "b[0,5)"}}));
  EXPECT_EQ(ranges(plan_parts({floats("a", 0, 2)}, 1)), (Texts{{"a[0,1)"}, {"a[1,2)"}}));
  EXPECT_EQ(ranges(plan_parts({}, 32)), Texts{});
}

TEST(PiecesToStore, DropsEmptyPiecesButNotEmptyTensors) {
  const auto kept =
      pieces_to_store({floats("a", 3, 3), floats("a", 0, 2), filled("master", {"none", Box::whole({0, 4}), 0, 0}, at::kFloat)});
  ASSERT_EQ(kept.size(), 2U);
  EXPECT_EQ(kept[0].piece.end, 2);
  EXPECT_EQ(kept[1].piece.name, "none");
}

TEST(PiecesToStore, RefusesValuesThatDoNotFitThePiece) {
  StatePiece state = floats("a", 0, 4);
  state.values = at::zeros({3});
  EXPECT_THROW(pieces_to_store({state}), ShapeError);
  state.values = at::zeros({2, 2});
  EXPECT_THROW(pieces_to_store({state}), ShapeError);
  state.values = at::zeros({8}).slice(0, 0, 8, 2);
  EXPECT_THROW(pieces_to_store({state}), ShapeError);
  state.values = at::zeros({4}, at::TensorOptions().dtype(at::kBool));
  EXPECT_THROW(pieces_to_store({state}), ShapeError);
  state.values = at::Tensor();
  EXPECT_THROW(pieces_to_store({state}), ShapeError);
}

}  // namespace
}  // namespace pimoe
