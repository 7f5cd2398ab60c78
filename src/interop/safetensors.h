#pragma once

#include "base/large_file.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pimoe {

/// One file in the safetensors format:
///
///     u64 little-endian  N, the length of the header, at most 100 MB
///     N bytes            {"NAME": {"dtype": "BF16", "shape": [8, 4], "data_offsets": [0, 64]}, ..., "__metadata__": {"format": "pt"}}
///     the rest           the tensors' elements, little-endian, row-major, side by side: offsets count from here
///
/// @source github.com/huggingface/safetensors, "Format"

/// What a header says of one tensor.
struct SafetensorsEntry {
  std::string dtype;  ///< as it is spelled there: "BF16"
  std::vector<int64_t> shape;
  uint64_t begin = 0;  ///< bytes behind the header
  uint64_t end = 0;

  int64_t numel() const;
};

/// The header alone. @param data_bytes  that follow it in the file  @param name  of the file, for messages
/// @throws DataError naming the tensor that has an unknown dtype, a missing, unknown, repeated or malformed field, a shape that does not give its
///         bytes, bytes that overlap another's or lie beyond the file; or the bytes that belong to no tensor
std::map<std::string, SafetensorsEntry> parse_safetensors_header(std::string_view header, uint64_t data_bytes, const std::string& name);

/// @returns the dtype of numbers that are weights: F64, F32, F16, BF16; nothing for others
std::optional<at::ScalarType> weight_dtype(const std::string& safetensors_dtype);
/// @returns "BF16" and so on. REQUIRES one of those four
const char* safetensors_dtype(at::ScalarType dtype);

/// A file whose header is right. Elements are read when asked for; nothing is kept.
class SafetensorsFile {
 public:
  /// @throws IoError, DataError as parse_safetensors_header
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::map<std::string, SafetensorsEntry>& tensors() const { return tensors_; }

  /// @returns elements [begin, begin + count) of the flattened tensor, as stored, on the host
  /// @throws DataError if its numbers are no weights' (integers, 8-bit floats)
  at::Tensor read(const std::string& tensor, int64_t begin, int64_t count) const;

 private:
  LargeFileReader file_;
  std::map<std::string, SafetensorsEntry> tensors_;
  uint64_t data_begin_ = 0;
};

/// A tensor that is to be written.
struct SafetensorsTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::optional<at::ScalarType> dtype = std::nullopt;  ///< nothing: as the others

  int64_t bytes(at::ScalarType others) const;
};

/// Writes a new file. @param elements  gives elements [begin, begin + count) of the tensor of an index, of its dtype, contiguous on the host
/// @returns bytes of the file  @throws IoError, and what `elements` throws
/// @cost memory of 32 MB of elements
int64_t write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsTensor>& tensors, at::ScalarType dtype,
                          const std::function<at::Tensor(size_t index, int64_t begin, int64_t count)>& elements);

}  // namespace pimoe
