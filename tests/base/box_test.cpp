#include "base/box.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {
namespace {

using Shape = std::vector<int64_t>;
using Runs = std::vector<Run>;  // inside a test, `Run` alone is a member of testing::Test

Piece whole_box(Box box) {
  const int64_t numel = box.numel();
  return {"weight", std::move(box), 0, numel};
}

TEST(Box, WholeCoversTheTensor) {
  const Box box = Box::whole({2, 3, 4});
  EXPECT_EQ(box, (Box{{2, 3, 4}, {0, 0, 0}, {2, 3, 4}}));
  EXPECT_EQ(box.numel(), 24);
  EXPECT_EQ(box.global_numel(), 24);
}

TEST(Box, RowsCutTheFirstDimension) {
  const Box box = Box::rows({8, 3}, 2, 4);
  EXPECT_EQ(box, (Box{{8, 3}, {2, 0}, {4, 3}}));
  EXPECT_EQ(box.numel(), 12);
  EXPECT_EQ(box.global_numel(), 24);
}

TEST(Box, RowsOutsideTheTensorAreRefused) {
  EXPECT_THROW(Box::rows({8, 3}, 5, 4), ShapeError);
  EXPECT_THROW(Box::rows({8, 3}, -1, 2), ShapeError);
  EXPECT_THROW(Box::rows({8, 3}, INT64_MAX, 1), ShapeError);
  EXPECT_THROW(Box::rows({8, 3}, 2, -1), ShapeError);
  EXPECT_THROW(Box::rows({}, 0, 1), ShapeError);
  EXPECT_EQ(Box::rows({8, 3}, 8, 0).numel(), 0);
}

TEST(Box, ScalarHasOneElement) { EXPECT_EQ(Box::whole({}).numel(), 1); }

TEST(ShapeText, ReadsAsAList) {
  EXPECT_EQ(shape_text({8, 512, 256}), "[8, 512, 256]");
  EXPECT_EQ(shape_text({}), "[]");
}

TEST(RunsOf, WholeTensorIsOneRun) {
  EXPECT_EQ(runs_of(whole_box(Box::whole({2, 3, 4}))), (Runs{{0, 0, 24}}));
  EXPECT_EQ(runs_of(whole_box(Box::whole({}))), (Runs{{0, 0, 1}}));
}

TEST(RunsOf, BoxCutAlongDimensionZeroIsOneRun) {
  EXPECT_EQ(runs_of(whole_box(Box::rows({8, 3}, 2, 4))), (Runs{{6, 0, 12}}));
  EXPECT_EQ(runs_of(whole_box(Box::rows({5}, 1, 3))), (Runs{{1, 0, 3}}));
}

// Columns 1 and 2 of a 3 x 4 tensor:  . x x . | . x x . | . x x .
TEST(RunsOf, ColumnsAreOneRunForEachRow) {
  EXPECT_EQ(runs_of(whole_box({{3, 4}, {0, 1}, {3, 2}})), (Runs{{1, 0, 2}, {5, 2, 2}, {9, 4, 2}}));
}

TEST(RunsOf, PieceMayBeginAndEndInsideARow) {
  EXPECT_EQ(runs_of({"weight", {{3, 4}, {0, 1}, {3, 2}}, 1, 4}), (Runs{{2, 0, 1}, {5, 1, 2}}));
  EXPECT_EQ(runs_of({"weight", Box::whole({3, 4}), 5, 9}), (Runs{{5, 0, 4}}));
}

// A cut in the middle dimension of [2, 3, 2]: rows 1 and 2 of each matrix are contiguous.
TEST(RunsOf, MiddleCutKeepsWholeInnerDimensionsTogether) {
  EXPECT_EQ(runs_of(whole_box({{2, 3, 2}, {0, 1, 0}, {2, 2, 2}})), (Runs{{2, 0, 4}, {8, 4, 4}}));
}

TEST(RunsOf, OneOuterIndexMakesAnInnerCutOneRun) { EXPECT_EQ(runs_of(whole_box({{4, 3, 2}, {2, 1, 0}, {1, 2, 2}})), (Runs{{14, 0, 4}})); }

TEST(RunsOf, EmptyPieceHasNoRuns) {
  EXPECT_TRUE(runs_of({"weight", Box::whole({3, 4}), 5, 5}).empty());
  EXPECT_TRUE(runs_of(whole_box(Box::whole({0, 4}))).empty());
  EXPECT_TRUE(runs_of(whole_box({{3, 4}, {0, 4}, {3, 0}})).empty());
}

TEST(RunsOf, RefusesWhatLiesOutside) {
  EXPECT_THROW(runs_of({"weight", Box::whole({3, 4}), 0, 13}), ShapeError);
  EXPECT_THROW(runs_of({"weight", Box::whole({3, 4}), -1, 3}), ShapeError);
  EXPECT_THROW(runs_of({"weight", Box::whole({3, 4}), 4, 3}), ShapeError);
  EXPECT_THROW(runs_of({"weight", {{3, 4}, {0, 3}, {3, 2}}, 0, 6}), ShapeError);
  EXPECT_THROW(runs_of({"weight", {{3, 4}, {0}, {3, 2}}, 0, 6}), ShapeError);
  EXPECT_THROW(runs_of({"weight", {{3, 4}, {INT64_MAX, 0}, {1, 4}}, 0, 4}), ShapeError);
}

TEST(Overlaps, OfEqualPiecesIsOneCopy) {
  const Piece columns = whole_box({{3, 4}, {0, 1}, {3, 2}});
  EXPECT_EQ(overlaps(columns, columns), (std::vector<Overlap>{{0, 0, 6}}));
}

// From rows 1 to 2 of a 4 x 3 tensor to its columns 0 and 1.
TEST(Overlaps, BetweenRowsAndColumns) {
  const Piece rows = whole_box(Box::rows({4, 3}, 1, 2));
  const Piece columns = whole_box({{4, 3}, {0, 0}, {4, 2}});
  EXPECT_EQ(overlaps(rows, columns), (std::vector<Overlap>{{0, 2, 2}, {3, 4, 2}}));
  EXPECT_EQ(overlaps(columns, rows), (std::vector<Overlap>{{2, 0, 2}, {4, 3, 2}}));
}

TEST(Overlaps, OfDisjointPiecesAreNone) {
  EXPECT_TRUE(overlaps(whole_box(Box::rows({4, 3}, 0, 2)), whole_box(Box::rows({4, 3}, 2, 2))).empty());
}

TEST(Overlaps, OfDifferentTensorsAreRefused) {
  EXPECT_THROW(overlaps(whole_box(Box::whole({4, 3})), whole_box(Box::whole({3, 4}))), ShapeError);
}

/// The tensor's element behind each element of a piece, by counting through all of it.
std::vector<int64_t> elements_of(const Piece& piece) {
  const auto& [global, offset, shape] = piece.box;
  std::vector<int64_t> elements;
  for (int64_t flat = piece.begin; flat < piece.end; ++flat) {
    int64_t rest = flat;
    int64_t element = 0;
    int64_t stride = 1;
    for (size_t d = global.size(); d-- > 0;) {
      element += (offset[d] + rest % shape[d]) * stride;
      rest /= shape[d];
      stride *= global[d];
    }
    elements.push_back(element);
  }
  return elements;
}

Piece random_piece(const Shape& global, std::mt19937_64& random) {
  const auto below = [&random](int64_t end) { return static_cast<int64_t>(random() % static_cast<uint64_t>(end)); };
  Box box = Box::whole(global);
  for (size_t d = 0; d < global.size(); ++d) {
    if (below(2) == 0) continue;
    box.offset[d] = below(global[d]);
    box.shape[d] = 1 + below(global[d] - box.offset[d]);
  }
  const int64_t begin = below(box.numel() + 1);
  const int64_t end = begin + below(box.numel() - begin + 1);
  return {"weight", box, begin, end};
}

std::string text_of(const Piece& piece) {
  return concat(shape_text(piece.box.global), " box ", shape_text(piece.box.shape), " at ", shape_text(piece.box.offset), " [", piece.begin,
                ", ", piece.end, ")");
}

TEST(RunsAndOverlaps, AgreeWithCountingThroughEveryElement) {
  constexpr uint64_t kSeed = 7;
  std::mt19937_64 random(kSeed);
  for (int trial = 0; trial < 3000; ++trial) {
    Shape global(1 + random() % 4);
    for (int64_t& length : global) length = 1 + static_cast<int64_t>(random() % 4);
    const Piece from = random_piece(global, random);
    const Piece to = random_piece(global, random);
    const std::vector<int64_t> from_elements = elements_of(from);
    const std::vector<int64_t> to_elements = elements_of(to);
    const std::string what = concat("seed ", kSeed, ", trial ", trial, ": ", text_of(from), " to ", text_of(to));

    std::vector<int64_t> covered;
    int64_t last_end = -1;
    for (const pimoe::Run& run : runs_of(from)) {
      ASSERT_EQ(run.local_begin, static_cast<int64_t>(covered.size())) << what;
      ASSERT_GT(run.global_begin, last_end) << what << ": two runs that could be one";
      for (int64_t i = 0; i < run.length; ++i) covered.push_back(run.global_begin + i);
      last_end = run.global_begin + run.length;
    }
    ASSERT_EQ(covered, from_elements) << what;

    std::map<int64_t, int64_t> expected;  // element of `from` to element of `to`
    for (size_t f = 0; f < from_elements.size(); ++f) {
      for (size_t t = 0; t < to_elements.size(); ++t) {
        if (from_elements[f] == to_elements[t]) expected[static_cast<int64_t>(f)] = static_cast<int64_t>(t);
      }
    }
    std::map<int64_t, int64_t> found;
    for (const Overlap& overlap : overlaps(from, to)) {
      for (int64_t i = 0; i < overlap.length; ++i) found[overlap.from + i] = overlap.to + i;
    }
    ASSERT_EQ(found, expected) << what;
  }
}

}  // namespace
}  // namespace pimoe
