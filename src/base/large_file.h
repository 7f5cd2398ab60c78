#pragma once

/// Files that are too large for memory: read wherever one likes, written from the first byte to the last. Every function throws IoError with
/// the path and the system's reason; short reads, short writes and EINTR are handled inside.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace pimoe {

class Descriptor;

/// A regular file of which parts are read.
class LargeFileReader {
 public:
  explicit LargeFileReader(const std::filesystem::path& path);
  ~LargeFileReader();
  LargeFileReader(LargeFileReader&& other) noexcept;
  LargeFileReader& operator=(LargeFileReader&& other) noexcept;

  const std::filesystem::path& path() const;
  /// As it was when the file was opened.
  uint64_t size() const { return size_; }
  /// @throws IoError with code EIO too where the file ends before: somebody has cut it
  void read(uint64_t offset, void* out, size_t count) const;

 private:
  std::unique_ptr<Descriptor> file_;
  uint64_t size_ = 0;
};

/// A new file. It is on the disk once `finish` has returned; its name survives a crash of the machine only after sync_folder.
class LargeFileWriter {
 public:
  /// @throws IoError with code EEXIST where something is there
  explicit LargeFileWriter(const std::filesystem::path& path);
  ~LargeFileWriter();
  LargeFileWriter(const LargeFileWriter&) = delete;
  LargeFileWriter& operator=(const LargeFileWriter&) = delete;

  void append(const void* bytes, size_t count);
  void finish();

 private:
  std::unique_ptr<Descriptor> file_;
};

}  // namespace pimoe
