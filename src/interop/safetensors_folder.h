#pragma once

#include "interop/safetensors.h"

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// The tensors of a folder as Hugging Face's libraries write it: model.safetensors, or the shards that model.safetensors.index.json lists.
class SafetensorsFolder {
 public:
  /// Opens every file, and reads their headers.
  /// @throws IoError, DataError as SafetensorsFile; where there is neither file nor index, or both; where the index is malformed, names a file that
  ///         is not plainly one of this folder (with / or ..), a tensor that its file does not have, or leaves one out that a file has
  explicit SafetensorsFolder(const std::filesystem::path& folder);

  bool has(const std::string& tensor) const { return file_of_.contains(tensor); }
  /// REQUIRES has(tensor)
  const SafetensorsEntry& entry(const std::string& tensor) const { return file_of_.at(tensor)->tensors().at(tensor); }
  /// @returns elements [begin, begin + count), as SafetensorsFile::read
  at::Tensor read(const std::string& tensor, int64_t begin, int64_t count) const;

  std::vector<std::string> names() const;
  size_t files() const { return files_.size(); }
  int64_t bytes() const;                              ///< of all tensors
  int64_t bytes_read() const { return bytes_read_; }  ///< of elements so far, by this process

 private:
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*> file_of_;
  mutable int64_t bytes_read_ = 0;
};

/// Writes tensors into shards, model-00001-of-0000N.safetensors with model.safetensors.index.json, or one model.safetensors if all fit into one.
/// @param folder       there, and without such files
/// @param shard_bytes  elements of a file at most; a tensor that is larger has a file of its own
/// @param elements     as for write_safetensors
/// @returns names of the files
std::vector<std::string> write_safetensors_folder(const std::filesystem::path& folder, const std::vector<SafetensorsTensor>& tensors,
                                                  at::ScalarType dtype, int64_t shard_bytes,
                                                  const std::function<at::Tensor(size_t index, int64_t begin, int64_t count)>& elements);

}  // namespace pimoe
