#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace pimoe {

/// Bytes of a file, as they are or decompressed.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// @returns how many bytes were read, fewer than `count` at the end alone. @throws IoError; DataError for damaged compression
  virtual size_t read(char* out, size_t count) = 0;
  /// @returns bytes of the file that were read so far
  virtual int64_t file_position() const = 0;
};

/// Whether a name ends in .gz or .zst.
bool is_compressed(const std::filesystem::path& path);

/// Opens a file by its name's ending: gzip (zlib), Zstandard, or as it is. Several compressed streams one after the other are one text.
/// @param begin  of the first byte; 0 for compressed files
/// @throws IoError if it cannot be opened
std::unique_ptr<ByteSource> open_bytes(const std::filesystem::path& path, int64_t begin);

}  // namespace pimoe
