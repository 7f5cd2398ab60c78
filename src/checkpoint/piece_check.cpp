#include "checkpoint/piece_check.h"

#include "base/text.h"

#include <algorithm>

namespace pimoe {
namespace {

constexpr size_t kMostDimensions = 16;
constexpr size_t kLongestName = 512;

bool product_fits(const std::vector<int64_t>& lengths) {
  int64_t product = 8;  // bytes of the widest element
  for (const int64_t length : lengths) {
    if (__builtin_mul_overflow(product, std::max<int64_t>(length, 1), &product)) return false;
  }
  return true;
}

bool plain_name(const std::string& name) {
  return !name.empty() && name.size() <= kLongestName && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return c > ' ' && c < 0x7f && c != '/' && c != '@'; });
}

bool box_inside(const Box& box) {
  const size_t rank = box.global.size();
  if (rank > kMostDimensions || box.offset.size() != rank || box.shape.size() != rank) return false;
  for (size_t d = 0; d < rank; ++d) {
    const bool inside =
        box.offset[d] >= 0 && box.shape[d] >= 0 && box.shape[d] <= box.global[d] && box.offset[d] <= box.global[d] - box.shape[d];
    if (!inside) return false;
  }
  return product_fits(box.global);
}

}  // namespace

std::string piece_trouble(const std::string& kind, const Piece& piece) {
  if (!plain_name(kind) || !plain_name(piece.name)) {
    return concat("'", kind, "/", piece.name,
                  "' cannot name a tensor: kind and name are printable ASCII without space, '/' and '@', at most ", kLongestName,
                  " characters each");
  }
  const auto tensor = concat(kind, "/", piece.name);
  if (!box_inside(piece.box)) {
    return concat(tensor, ": the box of shape ", shape_text(piece.box.shape), " at ", shape_text(piece.box.offset),
                  " does not lie inside a tensor of shape ", shape_text(piece.box.global));
  }
  if (piece.begin < 0 || piece.begin > piece.end || piece.end > piece.box.numel()) {
    return concat(tensor, ": elements [", piece.begin, ", ", piece.end, ") do not lie inside a box of ", piece.box.numel(), " elements");
  }
  return "";
}

TensorIndex index_by_tensor(const std::vector<StoredPiece>& pieces) {
  TensorIndex index;
  for (size_t i = 0; i < pieces.size(); ++i) index[pieces[i].tensor()].push_back(i);
  return index;
}

std::string coverage_trouble(const std::vector<StoredPiece>& pieces) {
  for (const auto& [tensor, members] : index_by_tensor(pieces)) {
    const StoredPiece& first = pieces[members.front()];
    std::vector<Stretch> covered;
    for (const size_t member : members) {
      const StoredPiece& other = pieces[member];
      if (other.piece.box.global != first.piece.box.global) {
        return concat(tensor, ": pieces disagree on its shape: ", shape_text(first.piece.box.global), " and ",
                      shape_text(other.piece.box.global));
      }
      if (other.type != first.type) {
        return concat(tensor, ": pieces disagree on its number format: ", element_name(first.type), " and ", element_name(other.type));
      }
      for (const Run& run : runs_of(other.piece)) covered.push_back({run.global_begin, run.global_begin + run.length});
    }
    const int64_t count = first.piece.box.global_numel();
    const Stretch gap = first_gap(std::move(covered), count);
    if (gap.begin < gap.end) {
      return concat(tensor, ": no piece holds elements [", gap.begin, ", ", gap.end, ") of its ", count, " (shape ",
                    shape_text(first.piece.box.global), ")");
    }
  }
  return "";
}

Stretch first_gap(std::vector<Stretch> covered, int64_t count) {
  std::sort(covered.begin(), covered.end(), [](const Stretch& a, const Stretch& b) { return a.begin < b.begin; });
  int64_t reached = 0;
  for (const Stretch& stretch : covered) {
    if (stretch.begin > reached) return {reached, stretch.begin};
    reached = std::max(reached, stretch.end);
  }
  return {std::min(reached, count), count};
}

}  // namespace pimoe
