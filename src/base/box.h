#pragma once

/// Which part of a logical tensor a rank holds, and which part of that a file stores.

#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// A box of a logical tensor: of `global` shape, the block that begins at `offset` and has `shape`.
/// All three have the tensor's rank; a scalar has none. Invariant: 0 <= offset[d], offset[d] + shape[d] <= global[d].
struct Box {
  std::vector<int64_t> global;
  std::vector<int64_t> offset;
  std::vector<int64_t> shape;

  /// The box that is the whole tensor.
  static Box whole(std::vector<int64_t> global);
  /// Rows [first, first + count) along dimension 0. @throws ShapeError if they do not lie inside.
  static Box rows(std::vector<int64_t> global, int64_t first, int64_t count);

  int64_t numel() const;         ///< elements in the box
  int64_t global_numel() const;  ///< elements in the logical tensor
  bool operator==(const Box&) const = default;
};

/// What a checkpoint stores and reshards: elements [begin, end) of the box, flattened in row-major order.
struct Piece {
  std::string name;  ///< logical tensor: "layers.0.attention.qkv"
  Box box;
  int64_t begin = 0;
  int64_t end = 0;

  int64_t numel() const { return end - begin; }
  bool operator==(const Piece&) const = default;
};

/// A stretch of a piece that is contiguous both in the piece and in the flattened logical tensor.
struct Run {
  int64_t global_begin = 0;  ///< element index in the flattened logical tensor
  int64_t local_begin = 0;   ///< element index from the piece's own start
  int64_t length = 0;
  bool operator==(const Run&) const = default;
};

/// @throws ShapeError if the box does not lie inside the tensor, or [begin, end) inside the box.
/// @returns the piece as runs, in order, as few as possible: one for a whole tensor or a box cut along dimension 0 alone.
std::vector<Run> runs_of(const Piece& piece);

/// A stretch that two pieces of one logical tensor share: element indices inside each piece.
struct Overlap {
  int64_t from = 0;  ///< in the first piece
  int64_t to = 0;    ///< in the second piece
  int64_t length = 0;
  bool operator==(const Overlap&) const = default;
};
/// @returns where the two overlap, in order; what follows on in both pieces is one stretch.
/// @throws ShapeError if they are not pieces of a tensor of one shape. @cost O(runs of `from` + runs of `to`).
std::vector<Overlap> overlaps(const Piece& from, const Piece& to);

/// @returns "[8, 512, 256]"
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace pimoe
