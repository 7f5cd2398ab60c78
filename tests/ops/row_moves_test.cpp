#include "ops/row_moves.h"

#include "base/errors.h"
#include "ops/op_checks.h"

#include <algorithm>
#include <numeric>

namespace pimoe::checks {
namespace row_moves_tests {

/// A random order of the slots of T tokens of which some are dropped.
struct Moves {
  std::vector<int32_t> slots;      ///< [R]
  std::vector<int32_t> positions;  ///< [T*K]
};

Moves random_moves(Random& random, int64_t tokens, int64_t choices, bool drop) {
  Moves moves;
  moves.slots.resize(static_cast<size_t>(tokens * choices));
  std::iota(moves.slots.begin(), moves.slots.end(), 0);
  std::shuffle(moves.slots.begin(), moves.slots.end(), random.engine());
  if (drop) moves.slots.resize(moves.slots.size() * 2 / 3);
  moves.positions.assign(static_cast<size_t>(tokens * choices), -1);
  for (size_t row = 0; row < moves.slots.size(); ++row) moves.positions[static_cast<size_t>(moves.slots[row])] = static_cast<int32_t>(row);
  return moves;
}

Operation gather(const Moves& moves, int64_t choices) {
  return [=](const std::vector<at::Tensor>& inputs) {
    return gather_rows(inputs[0], int_tensor(moves.slots), int_tensor(moves.positions), choices);
  };
}

Operation combine(const Moves& moves) {
  return [=](const std::vector<at::Tensor>& inputs) { return combine_rows(inputs[0], inputs[1], int_tensor(moves.positions)); };
}

// Slots 3, 0, 2 of two tokens with two choices travel; slot 1 was dropped.
TEST(GatherRows, TakesEachSlotsToken) {
  const at::Tensor tokens = on_device(at::tensor(std::vector<double>{1, 2, 3, 4}, at::kDouble).view({2, 2}), at::kFloat);
  const at::Tensor rows = gather_rows(tokens, int_tensor({3, 0, 2}), int_tensor({1, -1, 2, 0}), 2);
  EXPECT_EQ(int_values(rows), (std::vector<int64_t>{3, 4, 1, 2, 3, 4}));
}

TEST(CombineRows, AddsWhatWasNotDropped) {
  const at::Tensor rows = on_device(at::tensor(std::vector<double>{1, 10, 100}, at::kDouble).view({3, 1}), at::kFloat);
  const at::Tensor weights = on_device(at::tensor(std::vector<double>{2, 7, 3, 4}, at::kDouble).view({2, 2}), at::kFloat);
  const at::Tensor out = combine_rows(rows, weights, int_tensor({1, -1, 2, 0}));
  EXPECT_EQ(int_values(out), (std::vector<int64_t>{20, 304}));
}

TEST(RowMoves, MatchPlainLoopsAtAnyShapeAndDtype) {
  Random random;
  SCOPED_TRACE(random.trace());
  const std::vector<std::tuple<int, int, int>> sizes = {{0, 2, 8}, {1, 1, 1}, {5, 3, 7}, {20, 2, 40}, {33, 8, 16}, {6, 2, 600}};
  for (const at::ScalarType dtype : all_dtypes()) {
    for (const auto& [tokens, choices, width] : sizes) {
      for (const bool drop : {false, true}) {
        SCOPED_TRACE(concat(dtype, " T ", tokens, " K ", choices, " D ", width, " drop ", drop));
        const Moves moves = random_moves(random, tokens, choices, drop);
        const auto count = static_cast<int64_t>(moves.slots.size());
        const at::Tensor source = on_device(random.normal({tokens, width}), dtype);
        const at::Tensor rows = on_device(random.normal({count, width}), dtype);
        const at::Tensor weights = on_device(random.normal({tokens, choices}), arithmetic_of(dtype));

        const at::Tensor source_host = on_host(source), rows_host = on_host(rows), weights_host = on_host(weights);
        at::Tensor gathered = at::zeros({count, width}, at::kDouble);
        at::Tensor combined = at::zeros({tokens, width}, at::kDouble);
        for (int64_t slot = 0; slot < tokens * choices; ++slot) {
          const int64_t position = moves.positions[static_cast<size_t>(slot)];
          if (position < 0) continue;
          gathered[position].copy_(source_host[slot / choices]);
          combined[slot / choices] += weights_host[slot / choices][slot % choices] * rows_host[position];
        }
        const at::Tensor moved = gather(moves, choices)({source});
        expect_close(moved, gathered, 0.0);
        expect_close(combine(moves)({rows, weights}), combined, tolerance_of(dtype), 2.0);
        EXPECT_EQ(moved.scalar_type(), dtype);
      }
    }
  }
}

TEST(RowMoves, GradientsAreThoseOfTheLoops) {
  Random random;
  SCOPED_TRACE(random.trace());
  for (const bool drop : {false, true}) {
    for (const int64_t width : {3, 16}) {
      const Moves moves = random_moves(random, 4, 3, drop);
      const auto count = static_cast<int64_t>(moves.slots.size());
      check_gradients(gather(moves, 3), {{random.normal({4, width})}}, random);
      check_gradients(combine(moves), {{random.normal({count, width})}, {random.normal({4, 3}), true}}, random);
    }
  }
}

TEST(RowMoves, NoTokensGiveDefinedGradients) {
  const Moves none;
  const at::Tensor rows = at::zeros({0, 4}, at::kDouble);
  EXPECT_EQ(gradients(gather(none, 2), leaves({{rows}}, at::kFloat), rows)[0].sizes(), rows.sizes());
  const auto grads = gradients(combine(none), leaves({{rows}, {at::zeros({0, 2}, at::kDouble), true}}, at::kFloat), rows);
  EXPECT_EQ(grads[0].sizes(), rows.sizes());
  EXPECT_EQ(grads[1].sizes(), (std::vector<int64_t>{0, 2}));
}

TEST(CombineRows, UndoesGatherWhenWeightsSumToOne) {
  Random random;
  SCOPED_TRACE(random.trace());
  const Moves moves = random_moves(random, 50, 4, /*drop=*/false);
  const at::Tensor tokens = on_device(random.normal({50, 24}), at::kDouble);
  const at::Tensor weights = on_device(random.normal({50, 4}).softmax(1), at::kDouble);
  expect_close(combine(moves)({gather(moves, 4)({tokens}), weights}), tokens, 1e-14);
}

TEST(PermuteRows, GoesThereAndBack) {
  Random random;
  SCOPED_TRACE(random.trace());
  const Moves moves = random_moves(random, 11, 1, /*drop=*/false);
  const Operation permute = [&](const std::vector<at::Tensor>& inputs) {
    return permute_rows(inputs[0], int_tensor(moves.slots), int_tensor(moves.positions));
  };
  const at::Tensor rows = on_device(random.normal({11, 5}), at::kBFloat16);
  expect_same_bits(permute({rows}), rows.index_select(0, int_tensor(moves.slots)));
  expect_same_bits(permute_rows(permute({rows}), int_tensor(moves.positions), int_tensor(moves.slots)), rows);
  check_gradients(permute, {{random.normal({11, 3})}}, random);
}

TEST(RowMoves, RefuseCountsThatDisagree) {
  const at::Tensor rows = on_device(at::zeros({4, 2}), at::kFloat);
  const at::Tensor four = int_tensor({0, 1, 2, 3}), three = int_tensor({0, 1, 2});
  const at::Tensor weights = on_device(at::zeros({2, 2}), at::kFloat);
  EXPECT_THROW(gather_rows(rows, four, three, 1), ShapeError);
  EXPECT_THROW(gather_rows(rows, four.to(at::kLong), four, 1), ShapeError);
  EXPECT_THROW(combine_rows(rows, weights, three), ShapeError);
  EXPECT_THROW(combine_rows(rows, weights.to(at::kDouble), four), ShapeError);
  EXPECT_THROW(permute_rows(rows, three, three), ShapeError);
}

}  // namespace row_moves_tests
}  // namespace pimoe::checks
