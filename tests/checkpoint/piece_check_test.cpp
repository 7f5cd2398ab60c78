#include "checkpoint/piece_check.h"

#include <gtest/gtest.h>

namespace pimoe {
namespace {

StoredPiece stored(const std::string& name, Box box, int64_t begin, int64_t end, ElementType type = ElementType::kFloat32) {
  StoredPiece piece;
  piece.kind = "master";
  piece.piece = {name, std::move(box), begin, end};
  piece.type = type;
  return piece;
}

TEST(FirstGap, FindsWhatNoStretchHolds) {
  const auto gap = [](std::vector<Stretch> covered, int64_t count) {
    const Stretch found = first_gap(std::move(covered), count);
    return std::pair(found.begin, found.end);
  };
  EXPECT_EQ(gap({}, 0), std::pair(int64_t{0}, int64_t{0}));
  EXPECT_EQ(gap({}, 3), std::pair(int64_t{0}, int64_t{3}));
  EXPECT_EQ(gap({{0, 3}}, 3), std::pair(int64_t{3}, int64_t{3}));
  EXPECT_EQ(gap({{2, 3}, {0, 2}}, 3), std::pair(int64_t{3}, int64_t{3}));          // any order
  EXPECT_EQ(gap({{0, 5}, {1, 2}, {4, 6}}, 6), std::pair(int64_t{6}, int64_t{6}));  // copies
  EXPECT_EQ(gap({{0, 2}, {3, 6}}, 6), std::pair(int64_t{2}, int64_t{3}));
  EXPECT_EQ(gap({{1, 6}}, 6), std::pair(int64_t{0}, int64_t{1}));
  EXPECT_EQ(gap({{0, 4}}, 6), std::pair(int64_t{4}, int64_t{6}));
}

TEST(Coverage, AcceptsOddCutsRowsAndCopies) {
  const auto pieces = {stored("a", Box::whole({4, 3}), 0, 5),      stored("a", Box::whole({4, 3}), 5, 7),
                       stored("a", Box::rows({4, 3}, 2, 2), 0, 6), stored("a", Box::rows({4, 3}, 2, 2), 0, 6),
                       stored("scalar", Box::whole({}), 0, 1),     stored("none", Box::whole({0, 3}), 0, 0)};
  EXPECT_EQ(coverage_trouble(pieces), "");
}

TEST(Coverage, NamesTheTensorAndTheGap) {
  EXPECT_EQ(coverage_trouble({stored("a", Box::rows({4, 3}, 0, 1), 0, 3), stored("a", Box::rows({4, 3}, 2, 2), 0, 6)}),
            "master/a: no piece holds elements [3, 6) of its 12 (shape [4, 3])");
}

TEST(Coverage, NamesTensorsOfTwoShapesOrFormats) {
  EXPECT_EQ(coverage_trouble({stored("a", Box::whole({2}), 0, 2), stored("a", Box::whole({3}), 0, 3)}),
            "master/a: pieces disagree on its shape: [2] and [3]");
  EXPECT_EQ(coverage_trouble({stored("a", Box::whole({2}), 0, 2), stored("a", Box::whole({2}), 0, 2, ElementType::kBfloat16)}),
            "master/a: pieces disagree on its number format: float32 and bfloat16");
}

TEST(PieceTrouble, RefusesNamesThatCannotBeDatasets) {
  for (const char* name : {"", ".", "..", "a/b", "a@1", "a b", "a\n", "\xc3\xa9"}) {
    EXPECT_NE(piece_trouble("master", {name, Box::whole({1}), 0, 1}), "") << name;
    EXPECT_NE(piece_trouble(name, {"a", Box::whole({1}), 0, 1}), "") << name;
  }
  EXPECT_EQ(piece_trouble("master", {"layers.0.norm", Box::whole({1}), 0, 1}), "");
}

TEST(PieceTrouble, RefusesBoxesAndRangesThatStickOut) {
  EXPECT_NE(piece_trouble("master", {"a", {{4}, {3}, {2}}, 0, 1}), "");
  EXPECT_NE(piece_trouble("master", {"a", {{4}, {-1}, {2}}, 0, 1}), "");
  EXPECT_NE(piece_trouble("master", {"a", {{4}, {0, 0}, {2}}, 0, 1}), "");
  EXPECT_NE(piece_trouble("master", {"a", {{INT64_MAX}, {INT64_MAX}, {INT64_MAX}}, 0, 1}), "");
  EXPECT_NE(piece_trouble("master", {"a", Box::whole({INT64_MAX / 4, 3}), 0, 1}), "");  // the product overflows
  EXPECT_NE(piece_trouble("master", {"a", Box::whole({4}), 2, 1}), "");
  EXPECT_NE(piece_trouble("master", {"a", Box::whole({4}), 2, 5}), "");
}

}  // namespace
}  // namespace pimoe
