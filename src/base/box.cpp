#include "base/box.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {
namespace {

int64_t product(const std::vector<int64_t>& lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{1}, std::multiplies<>());
}

void require_inside(const Piece& piece) {
  const auto& [global, offset, shape] = piece.box;
  bool inside = offset.size() == global.size() && shape.size() == global.size();
  for (size_t d = 0; inside && d < global.size(); ++d) {
    inside = offset[d] >= 0 && shape[d] >= 0 && shape[d] <= global[d] && offset[d] <= global[d] - shape[d];
  }
  if (!inside) {
    throw ShapeError(concat("piece of ", piece.name, ": the box of shape ", shape_text(shape), " at ", shape_text(offset),
                            " does not lie inside ", shape_text(global)));
  }
  if (piece.begin < 0 || piece.begin > piece.end || piece.end > piece.box.numel()) {
    throw ShapeError(concat("piece of ", piece.name, ": elements [", piece.begin, ", ", piece.end, ") do not lie inside its box of ",
                            piece.box.numel(), " elements"));
  }
}

}  // namespace

Box Box::whole(std::vector<int64_t> global) {
  std::vector<int64_t> offset(global.size(), 0);
  return {global, std::move(offset), global};
}

Box Box::rows(std::vector<int64_t> global, int64_t first, int64_t count) {
  if (global.empty() || first < 0 || count < 0 || first > global[0] - count) {
    throw ShapeError(concat(count, " rows from ", first, " on do not lie inside a tensor of shape ", shape_text(global)));
  }
  Box box = whole(std::move(global));
  box.offset[0] = first;
  box.shape[0] = count;
  return box;
}

int64_t Box::numel() const { return product(shape); }
int64_t Box::global_numel() const { return product(global); }

std::vector<Run> runs_of(const Piece& piece) {
  require_inside(piece);
  if (piece.numel() == 0) return {};
  const std::vector<int64_t>& global = piece.box.global;
  const std::vector<int64_t>& offset = piece.box.offset;
  const std::vector<int64_t>& shape = piece.box.shape;
  const size_t rank = global.size();

  // Dimensions from `cut` on are contiguous in the tensor: all behind `cut` are whole.
  size_t cut = rank;
  int64_t chunk = 1;  // elements of the box that are contiguous in the tensor
  int64_t inner = 1;  // elements of the tensor behind dimension `cut`
  while (cut > 0) {
    --cut;
    chunk *= shape[cut];
    if (shape[cut] != global[cut]) break;
    if (cut > 0) inner *= global[cut];
  }

  const auto chunk_begin = [&](int64_t index) {
    int64_t place = rank == 0 ? 0 : offset[cut] * inner;
    int64_t stride = inner;
    for (size_t d = cut; d > 0; --d) {
      stride *= global[d];
      place += (offset[d - 1] + index % shape[d - 1]) * stride;
      index /= shape[d - 1];
    }
    return place;
  };

  std::vector<Run> runs;
  for (int64_t at = piece.begin; at < piece.end;) {
    const int64_t index = at / chunk;
    const int64_t end = std::min(piece.end, (index + 1) * chunk);
    runs.push_back({chunk_begin(index) + at % chunk, at - piece.begin, end - at});
    at = end;
  }
  return runs;
}

std::vector<Overlap> overlaps(const Piece& from, const Piece& to) {
  if (from.box.global != to.box.global) {
    throw ShapeError(concat("pieces of tensors of different shapes cannot overlap: ", from.name, " ", shape_text(from.box.global), " and ",
                            to.name, " ", shape_text(to.box.global)));
  }
  std::vector<Overlap> found;
  const std::vector<Run> sources = runs_of(from);
  const std::vector<Run> targets = runs_of(to);
  for (size_t s = 0, t = 0; s < sources.size() && t < targets.size();) {
    const int64_t source_end = sources[s].global_begin + sources[s].length;
    const int64_t target_end = targets[t].global_begin + targets[t].length;
    const int64_t begin = std::max(sources[s].global_begin, targets[t].global_begin);
    const int64_t length = std::min(source_end, target_end) - begin;
    if (length > 0) {
      const Overlap next{sources[s].local_begin + begin - sources[s].global_begin, targets[t].local_begin + begin - targets[t].global_begin,
                         length};
      // What follows on in both pieces is one copy, even where the tensor has a gap.
      const bool follows =
          !found.empty() && found.back().from + found.back().length == next.from && found.back().to + found.back().length == next.to;
      if (follows) {
        found.back().length += length;
      } else {
        found.push_back(next);
      }
    }
    source_end <= target_end ? ++s : ++t;
  }
  return found;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> lengths;
  for (const int64_t length : shape) lengths.push_back(std::to_string(length));
  return "[" + join(lengths, ", ") + "]";
}

}  // namespace pimoe
