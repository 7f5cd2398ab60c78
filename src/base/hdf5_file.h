#pragma once

/// HDF5 files as images in memory: the writer's bytes go to the disk through our own write loop, and a reader verifies a digest before
/// HDF5 parses anything (HDF5 1.10 loses files on a full disk, and crashes on some damaged ones). HDF5 is seen by hdf5_file.cpp alone.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// @returns the library's version, "1.10.8"
std::string hdf5_version();

/// The number formats that a dataset can have. bfloat16 is stored as its 16 bits in an unsigned integer, marked by the attribute
/// `dtype`, because HDF5 has no such type; every dataset carries that attribute ("float32", "bfloat16", ...).
enum class ElementType { kFloat64, kFloat32, kFloat16, kBfloat16, kInt64, kInt32, kUint8, kInt8 };

int64_t element_bytes(ElementType type);
const char* element_name(ElementType type);
/// @throws Error for a name that element_name never gives.
ElementType element_type(const std::string& name);

/// @returns how many elements each chunk of a dataset of `count` has in the file, the last one too, which is filled up
int64_t chunk_elements(ElementType type, int64_t count);

/// Integer-list attributes of a dataset: {"global_shape": [8, 512, 256]}.
using Hdf5Attributes = std::map<std::string, std::vector<int64_t>>;

/// The bytes of a finished file, where HDF5 built them.
class Hdf5Image {
 public:
  const std::byte* data() const { return bytes_; }
  size_t size() const { return size_; }

 private:
  friend class Hdf5Writer;
  std::shared_ptr<void> file_;  ///< owns the bytes
  const std::byte* bytes_ = nullptr;
  size_t size_ = 0;
};

/// Builds one HDF5 file in memory. The same calls give the same bytes (no time stamps). One thread at a time uses a writer; several writers
/// and readers may be at work in several threads, and wait for each other.
class Hdf5Writer {
 public:
  Hdf5Writer();
  ~Hdf5Writer();

  /// Adds a one-dimensional dataset, chunked with fletcher32. `name` may hold '/' (groups are made). `count` may be 0.
  /// @throws Error if the name is taken or HDF5 fails.
  void add(const std::string& name, ElementType type, const void* elements, int64_t count, const Hdf5Attributes& attributes = {});

  /// A text attribute of the root group, at most about 60 kB, without zero bytes. @throws Error if HDF5 refuses it or the name is taken.
  void set_text(const std::string& name, const std::string& value);

  /// @returns the file's bytes, not copied; the writer is used up.
  Hdf5Image finish();

 private:
  struct Handles;
  void require_unfinished() const;
  std::unique_ptr<Handles> handles_;
};

/// Reads an HDF5 file from memory, whose every structure is checked before HDF5 sees it (base/hdf5_structure.h): what is damaged or forged is
/// an Error, as are links and storage in other files, filters other than fletcher32 and shuffle, and layouts other than HDF5's default one.
/// The bytes must outlive the reader.
class Hdf5Reader {
 public:
  /// @throws Error if the bytes are not an HDF5 file.
  Hdf5Reader(const std::byte* bytes, size_t count, const std::string& name_for_messages);
  ~Hdf5Reader();

  struct Dataset {
    ElementType type = ElementType::kFloat32;
    int64_t count = 0;
    Hdf5Attributes attributes;
  };

  /// @returns every dataset's full name ("master/layers.0.norm"), sorted.
  std::vector<std::string> names() const;
  /// @throws Error if there is no such dataset.
  Dataset describe(const std::string& name) const;
  /// @returns a text attribute of the root group, as set_text wrote it. @throws Error if there is none, or it is no text
  std::string text(const std::string& name) const;

  /// Reads elements [begin, begin + count) into `out`, which has room for count * element_bytes(type) bytes.
  void read(const std::string& name, int64_t begin, int64_t count, void* out) const;

 private:
  struct Handles;
  std::unique_ptr<Handles> handles_;
};

}  // namespace pimoe
