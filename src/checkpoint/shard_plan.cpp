#include "checkpoint/shard_plan.h"

#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/piece_check.h"
#include "checkpoint/shard_file.h"

#include <algorithm>
#include <unordered_set>

namespace pimoe {
namespace {

std::string identity(const StoredPiece& stored) {
  const Box& box = stored.piece.box;
  return concat(stored.tensor(), " ", shape_text(box.offset), shape_text(box.shape), " ", stored.piece.begin, " ", stored.piece.end);
}

StatePiece cut(const StatePiece& whole, int64_t first, int64_t count) {
  StatePiece part = whole;
  part.piece.begin = whole.piece.begin + first;
  part.piece.end = part.piece.begin + count;
  part.values = whole.values.narrow(0, first, count);
  return part;
}

}  // namespace

std::vector<StatePiece> pieces_to_store(const std::vector<StatePiece>& pieces) {
  std::vector<StatePiece> kept;
  for (const StatePiece& state : pieces) {
    if (const std::string trouble = state_trouble(state); !trouble.empty()) throw ShapeError(trouble);
    if (state.piece.numel() > 0 || state.piece.box.global_numel() == 0) kept.push_back(state);
  }
  return kept;
}

std::vector<StoredPiece> list_pieces(const std::vector<StatePiece>& pieces) {
  std::vector<StoredPiece> listed;
  for (const StatePiece& state : pieces) {
    StoredPiece& stored = listed.emplace_back();
    stored.kind = state.kind;
    stored.piece = state.piece;
    stored.type = *element_type_of(state.values.scalar_type());
  }
  return listed;
}

std::vector<std::vector<size_t>> share_out(const std::vector<std::vector<StoredPiece>>& by_rank) {
  std::unordered_set<std::string> taken;
  std::vector<std::vector<size_t>> shares;
  for (const std::vector<StoredPiece>& listed : by_rank) {
    std::vector<size_t>& share = shares.emplace_back();
    for (size_t i = 0; i < listed.size(); ++i) {
      if (taken.insert(identity(listed[i])).second) share.push_back(i);
    }
  }
  return shares;
}

std::vector<std::vector<StatePiece>> plan_parts(const std::vector<StatePiece>& pieces, int64_t part_bytes) {
  std::vector<std::vector<StatePiece>> parts;
  int64_t room = 0;
  for (const StatePiece& state : pieces) {
    const int64_t width = state.values.element_size();
    const int64_t most = std::max<int64_t>(part_bytes / width, 1);
    int64_t first = 0;
    do {
      const int64_t count = std::min(state.piece.numel() - first, most);
      if (parts.empty() || count * width > room) {
        parts.emplace_back();
        room = part_bytes;
      }
      parts.back().push_back(count == state.piece.numel() ? state : cut(state, first, count));
      room -= count * width;
      first += count;
    } while (first < state.piece.numel());
  }
  return parts;
}

}  // namespace pimoe
