#pragma once

/// One HDF5 file of a checkpoint: written from a rank's pieces, read back once its digest is known to be right.

#include "base/file_io.h"
#include "base/hdf5_file.h"
#include "checkpoint/manifest.h"
#include "checkpoint/snapshot.h"

#include <filesystem>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// @returns the number format that tensors of a dtype are stored in; nothing for dtypes that have none.
std::optional<ElementType> element_type_of(at::ScalarType dtype);
at::ScalarType scalar_type_of(ElementType type);

/// @returns "" if a piece has a valid name, box and range, and its values are [numel], contiguous, of a dtype that can be stored.
std::string state_trouble(const StatePiece& state);

/// What a dataset says about its place: global_shape, box_offset, box_shape, range. A shard explains itself without its manifest.
Hdf5Attributes attributes_of(const Piece& piece);

/// "rank-0000-of-0002-part-000.h5"
std::string shard_name(int64_t rank, int64_t ranks, size_t part);

/// @returns what the manifest says of the pieces in a file, without their digests
std::vector<StoredPiece> rows_of(const std::string& file, const std::vector<StatePiece>& pieces);

/// Writes the files of one rank, durably: while one is on its way to the disk, the next is built in memory and its digests are taken.
/// A dataset is named after its tensor; further pieces of the same tensor get "@1", "@2" and so on.
class ShardWriter {
 public:
  /// @param written  called for each file that is on the disk, by the thread that calls add() and finish()
  ShardWriter(std::filesystem::path folder, Manifest& manifest, std::function<void(const StoredFile&)> written = {});
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /// @throws IoError  with the path and the system's reason, of this file or of the one before it
  /// @cost   host memory of two files, and of one piece where tensors are a device's
  void add(const std::string& name, const std::vector<StatePiece>& pieces);

  /// Waits for the last file: now the manifest has the rows of all. @throws IoError likewise
  void finish();

 private:
  std::filesystem::path folder_;
  Manifest& manifest_;
  std::function<void(const StoredFile&)> written_;
  std::vector<StoredPiece> pieces_;  ///< of the file that is being written
  std::future<StoredFile> writing_;
};

/// A file of a checkpoint, opened for reading. Its elements are mapped, not copied.
class ShardFile {
 public:
  /// Checks size and digest before HDF5 sees a byte. @throws CheckpointError
  ShardFile(const std::filesystem::path& folder, const StoredFile& file);

  /// @returns [count] elements of a stored piece, from `begin` in it, on the host. @throws CheckpointError
  at::Tensor read(const StoredPiece& stored, int64_t begin, int64_t count) const;
  /// The same into `elements`, which is on the host, contiguous, and of the piece's dtype.
  void read_into(const at::Tensor& elements, const StoredPiece& stored, int64_t begin) const;

 private:
  MappedFile map_;
  Hdf5Reader reader_;
};

}  // namespace pimoe
