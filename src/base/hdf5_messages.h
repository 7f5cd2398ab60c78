#pragma once

/// Object headers of an HDF5 file, and the messages in them: what a group or a dataset is. Internal to the check of hdf5_structure.h.

#include "base/hdf5_view.h"

#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// One message of an object header.
struct Hdf5Message {
  uint64_t type = 0;
  uint64_t at = 0;     ///< place of its content
  uint64_t bytes = 0;  ///< of its content, padding included
};

/// A dataset whose elements are in chunks, under a tree.
struct ChunkedLayout {
  std::string path;
  uint64_t at = 0;            ///< place of the layout message
  uint64_t tree = 0;          ///< kNoAddress where there is no chunk
  uint64_t count = 0;         ///< elements of the dataset
  uint64_t chunk = 0;         ///< elements of a chunk, at least 1
  uint64_t stored_bytes = 0;  ///< of a chunk in the file
};

/// A version 1 object header with all its messages, each of a kind that is known, whole, and not shared with other objects.
class Hdf5Object {
 public:
  /// Claims the header's bytes, and checks the attributes. @throws Error
  Hdf5Object(Hdf5View& view, uint64_t at, std::string path);

  bool is_group() const;
  /// REQUIRES is_group()
  const Hdf5Message& symbol_table() const;
  /// Checks dataspace, number format, fill value, filters and layout of what is not a group, and claims its elements unless they are in chunks.
  /// @returns the chunks that must be there, for a chunked dataset. @throws Error
  std::optional<ChunkedLayout> check_dataset() const;

 private:
  void read_messages(uint64_t at, uint64_t bytes, std::vector<Hdf5Message>& continuations);
  void check_attribute(const Hdf5Message& message) const;
  const Hdf5Message* find(uint64_t type) const;
  const Hdf5Message& only(uint64_t type, const char* what) const;

  Hdf5View& view_;
  uint64_t at_;
  std::string path_;
  std::vector<Hdf5Message> messages_;
};

}  // namespace pimoe
