#pragma once

/// A checkpoint made of another one by this process alone, tensor by tensor: how `quantize` and `prune` write.

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/manifest.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/snapshot.h"
#include "model/transformer.h"
#include "train/loaded_model.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// Elements of a tensor that are looked at together.
inline constexpr int64_t kElementsTogether = int64_t{1} << 24;

/// Puts pieces of tensors into files of about 128 MB, one after the other.
class CheckpointParts {
 public:
  explicit CheckpointParts(ShardWriter& writer) : writer_(writer) {}

  /// @param shape  of the whole tensor  @param begin  of the values, in the flattened tensor
  void add(const std::string& kind, const std::string& name, const std::vector<int64_t>& shape, int64_t begin, const at::Tensor& values);
  /// A tensor ("master/final_norm.weight") as it is. @throws CheckpointError as CheckpointReader::read
  void add_copy(CheckpointReader& reader, const std::string& tensor, const std::vector<int64_t>& shape);
  void add_zeros(const std::string& kind, const std::string& name, const std::vector<int64_t>& shape, at::ScalarType dtype);
  /// After what belongs together: a file that is full is written.
  void may_write();
  /// At the end.
  void write();

 private:
  ShardWriter& writer_;
  std::vector<StatePiece> pieces_;
  int64_t bytes_ = 0;
  size_t part_ = 0;
};

/// Names, shapes and dtypes of a model; no memory.
std::unique_ptr<Transformer> declared_model(const ModelConfig& model, const ProcessMesh& mesh);

/// @param manifest  numbers, counters, step and configuration  @param write_parts  adds all tensors
/// @throws what is wrong with the checkpoint that is read as the CheckpointError that it is; SaveError
void write_from_checkpoint(const std::filesystem::path& to, Manifest manifest, const std::function<void(CheckpointParts&)>& write_parts);

/// Adds the loss of load_proof.h to a checkpoint that nobody uses yet. Collective; rank 0 writes. @throws IoError
void add_proof(const std::filesystem::path& checkpoint, const LoadedModel& loaded);

}  // namespace pimoe
