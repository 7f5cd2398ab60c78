#pragma once

#include "checkpoint/manifest.h"
#include "checkpoint/piece_check.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/snapshot.h"

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// Logical tensors out of a checkpoint's shards, whatever layout wrote them. A file is opened, and verified, when first needed, and stays
/// open.
class CheckpointReader {
 public:
  /// @throws CheckpointError if the manifest is missing or damaged
  explicit CheckpointReader(std::filesystem::path folder);
  CheckpointReader(std::filesystem::path folder, Manifest manifest);

  const Manifest& manifest() const { return manifest_; }

  /// A logical tensor: shape and number format.
  struct Tensor {
    std::vector<int64_t> shape;
    ElementType type = ElementType::kFloat32;
  };
  /// @returns "master/layers.0.norm" and so on, sorted, with what each is.
  std::map<std::string, Tensor> tensors() const;

  /// Fills the values of every wanted piece; an optional one whose tensor is in no file stays as it is. All are checked before the first is written.
  /// @returns the tensors ("exp_avg/layers.0.norm") of optional pieces that stayed as they were, each once, sorted
  /// @throws CheckpointError naming the tensor that is missing (with the nearest name), has another shape or number format, or is not fully
  ///         covered, or the file that is damaged.
  /// @cost reads and digests each file with wanted elements once
  std::vector<std::string> fill(const std::vector<StatePiece>& wanted);

  /// @returns elements [begin, end) of the flattened logical tensor "kind/name", on the host, as stored.
  /// @throws CheckpointError as fill
  at::Tensor read(const std::string& tensor, int64_t begin, int64_t end);

  /// Bytes of elements that were read so far.
  int64_t bytes_read() const { return bytes_read_; }
  /// Bytes of the files that were opened for them: each was read once, for its digest.
  int64_t bytes_digested() const { return bytes_digested_; }

 private:
  static std::string tensor_of(const StatePiece& state) { return state.kind + "/" + state.piece.name; }

  struct Copy {
    size_t stored = 0;  ///< in manifest_.pieces
    size_t wanted = 0;
    std::vector<Overlap> overlaps;
  };

  /// Memory is taken for what the files can hold, not for what a manifest says. @throws CheckpointError
  void require_room(const std::string& tensor, int64_t count) const;
  void check_tensor(const StatePiece& state) const;
  bool is_left_out(const StatePiece& state) const { return state.optional && !index_.contains(tensor_of(state)); }
  /// @returns the copies that fill every wanted piece that is not left out, by file.
  std::map<std::string, std::vector<Copy>> plan(const std::vector<StatePiece>& wanted) const;
  const ShardFile& open(const std::string& file);

  std::filesystem::path folder_;
  Manifest manifest_;
  TensorIndex index_;
  std::map<std::string, StoredFile> files_;
  std::map<std::string, std::unique_ptr<ShardFile>> open_;
  int64_t bytes_read_ = 0;
  int64_t bytes_digested_ = 0;
};

}  // namespace pimoe
