#include "checkpoint/checkpoint_reader.h"

#include "base/errors.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "checkpoint/verification.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <set>
#include <utility>

namespace pimoe {
namespace {

bool convertible(at::ScalarType stored, at::ScalarType wanted) {
  return stored == wanted || (at::isFloatingType(stored) && at::isFloatingType(wanted));
}

}  // namespace

CheckpointReader::CheckpointReader(std::filesystem::path folder) : CheckpointReader(folder, read_manifest(folder)) {}

CheckpointReader::CheckpointReader(std::filesystem::path folder, Manifest manifest)
    : folder_(std::move(folder)), manifest_(std::move(manifest)), index_(index_by_tensor(manifest_.pieces)) {
  for (const StoredFile& file : manifest_.files) files_[file.name] = file;
}

std::map<std::string, CheckpointReader::Tensor> CheckpointReader::tensors() const {
  std::map<std::string, Tensor> found;
  for (const auto& [name, members] : index_) {
    const StoredPiece& first = manifest_.pieces[members.front()];
    found[name] = {first.piece.box.global, first.type};
  }
  return found;
}

void CheckpointReader::require_room(const std::string& tensor, int64_t count) const {
  const auto found = index_.find(tensor);
  if (found == index_.end()) return;
  const std::string where = concat("checkpoint ", folder_.string(), ": ");
  int64_t stored_elements = 0;  // without overflow: the pieces lie side by side in the files, whose sizes are 64-bit numbers of bytes
  std::set<std::string> seen;
  for (const size_t member : found->second) {
    const StoredPiece& stored = manifest_.pieces[member];
    stored_elements += stored.piece.numel();
    if (!seen.insert(stored.file).second) continue;
    if (const std::string trouble = file_trouble(folder_, files_.at(stored.file), /*digest=*/false); !trouble.empty()) {
      throw CheckpointError(where + trouble);
    }
  }
  if (count > stored_elements) {
    throw CheckpointError(
        concat(where, tensor, " is not complete: ", count, " elements are wanted, and its pieces hold ", stored_elements));
  }
}

void CheckpointReader::check_tensor(const StatePiece& state) const {
  const std::string where = concat("checkpoint ", folder_.string(), ": ");
  if (const std::string trouble = state_trouble(state); !trouble.empty()) throw CheckpointError(where + trouble);
  const std::string tensor = tensor_of(state);
  const auto found = index_.find(tensor);
  if (found == index_.end()) {
    std::vector<std::string> names;
    for (const auto& [name, members] : index_) names.push_back(name);
    const std::string nearest = nearest_name(tensor, names);
    throw CheckpointError(concat(where, "has no tensor ", tensor, nearest.empty() ? "" : concat("; the nearest that it has is ", nearest)));
  }
  for (const size_t member : found->second) {
    const StoredPiece& stored = manifest_.pieces[member];
    if (stored.piece.box.global != state.piece.box.global) {
      throw CheckpointError(
          concat(where, tensor, " has shape ", shape_text(stored.piece.box.global), ", wanted is ", shape_text(state.piece.box.global)));
    }
    if (!convertible(scalar_type_of(stored.type), state.values.scalar_type())) {
      throw CheckpointError(concat(where, tensor, " is ", element_name(stored.type), ", wanted is ",
                                   c10::toString(state.values.scalar_type()), "; only floating-point numbers are converted"));
    }
  }
}

std::map<std::string, std::vector<CheckpointReader::Copy>> CheckpointReader::plan(const std::vector<StatePiece>& wanted) const {
  std::map<std::string, std::vector<Copy>> copies;
  for (size_t w = 0; w < wanted.size(); ++w) {
    if (is_left_out(wanted[w])) continue;
    check_tensor(wanted[w]);
    const Piece& piece = wanted[w].piece;
    std::vector<Stretch> covered;
    for (const size_t member : index_.at(tensor_of(wanted[w]))) {
      const StoredPiece& stored = manifest_.pieces[member];
      Copy copy{member, w, overlaps(stored.piece, piece)};
      if (copy.overlaps.empty()) continue;
      for (const Overlap& overlap : copy.overlaps) covered.push_back({overlap.to, overlap.to + overlap.length});
      copies[stored.file].push_back(std::move(copy));
    }
    const Stretch gap = first_gap(std::move(covered), piece.numel());
    if (gap.begin < gap.end) {
      throw CheckpointError(concat("checkpoint ", folder_.string(), ": ", tensor_of(wanted[w]), " is not complete: elements [", gap.begin,
                                   ", ", gap.end, ") of the wanted ", piece.numel(), " are in no file"));
    }
  }
  return copies;
}

std::vector<std::string> CheckpointReader::fill(const std::vector<StatePiece>& wanted) {
  const c10::AutoGradMode no_gradient(false);  // wanted values may be leaves that require one
  for (const auto& [file, copies] : plan(wanted)) {
    const ShardFile& shard = open(file);
    for (const Copy& copy : copies) {
      const auto by_start = [](const Overlap& a, const Overlap& b) { return a.from < b.from; };
      const auto by_end = [](const Overlap& a, const Overlap& b) { return a.from + a.length < b.from + b.length; };
      const int64_t begin = std::min_element(copy.overlaps.begin(), copy.overlaps.end(), by_start)->from;
      const Overlap& last = *std::max_element(copy.overlaps.begin(), copy.overlaps.end(), by_end);
      const StoredPiece& stored = manifest_.pieces[copy.stored];
      const at::Tensor& values = wanted[copy.wanted].values;
      if (copy.overlaps.size() == 1 && values.is_cpu() && values.scalar_type() == scalar_type_of(stored.type)) {
        // Where it belongs at once: memory that a load takes beside the state stays with the process.
        shard.read_into(values.narrow(0, last.to, last.length), stored, last.from);
        bytes_read_ += last.length * values.element_size();
        continue;
      }
      // One read for all stretches: they are near each other, and a chunk is checked whole whatever is read of it.
      const at::Tensor span = shard.read(stored, begin, last.from + last.length - begin);
      bytes_read_ += static_cast<int64_t>(span.nbytes());
      for (const Overlap& overlap : copy.overlaps) {
        values.narrow(0, overlap.to, overlap.length).copy_(span.narrow(0, overlap.from - begin, overlap.length));
      }
    }
  }
  std::set<std::string> left_out;
  for (const StatePiece& state : wanted) {
    if (is_left_out(state)) left_out.insert(tensor_of(state));
  }
  return {left_out.begin(), left_out.end()};
}

at::Tensor CheckpointReader::read(const std::string& tensor, int64_t begin, int64_t end) {
  const auto found = index_.find(tensor);
  StatePiece state;
  const size_t slash = tensor.find('/');
  state.kind = tensor.substr(0, slash);
  state.piece.name = slash == std::string::npos ? "" : tensor.substr(slash + 1);
  at::ScalarType dtype = at::kFloat;
  if (found != index_.end()) {
    const StoredPiece& first = manifest_.pieces[found->second.front()];
    state.piece.box = Box::whole(first.piece.box.global);
    dtype = scalar_type_of(first.type);
  }
  state.piece.begin = begin;
  state.piece.end = end;
  require_room(tensor, end - begin);
  state.values = at::empty({end - begin}, at::TensorOptions().dtype(dtype));
  fill({state});
  return state.values;
}

const ShardFile& CheckpointReader::open(const std::string& file) {
  std::unique_ptr<ShardFile>& shard = open_[file];
  if (!shard) {
    shard = std::make_unique<ShardFile>(folder_, files_.at(file));
    bytes_digested_ += static_cast<int64_t>(files_.at(file).bytes);
    count_work(static_cast<int64_t>(files_.at(file).bytes));
  }
  return *shard;
}

}  // namespace pimoe
