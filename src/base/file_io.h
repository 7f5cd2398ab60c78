#pragma once

/// Files that must not be lost: whole-file reads, durable writes, atomic commits. Every function throws IoError with the path and the
/// system's reason; short writes and EINTR are handled inside.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace pimoe {

/// @returns whether there is something at `path`. @throws IoError if one may not look, which is no answer
bool is_there(const std::filesystem::path& path);

/// @returns the whole file, or all that a pipe gives. @throws IoError if it cannot be read or is larger than `limit_bytes`.
std::string read_file(const std::filesystem::path& path, uint64_t limit_bytes = UINT64_MAX);
/// The same of what must be a regular file: a pipe in its place, which would keep its reader waiting, is an IoError with code ENXIO.
std::string read_regular_file(const std::filesystem::path& path, uint64_t limit_bytes = UINT64_MAX);
std::vector<std::byte> read_regular_bytes(const std::filesystem::path& path, uint64_t limit_bytes = UINT64_MAX);

/// Writes a new file (or replaces its content) and flushes it to the disk (fsync) before it returns. After an error the content is
/// unspecified; a new file's name survives a crash of the machine only after sync_folder.
void write_durably(const std::filesystem::path& path, const void* bytes, size_t count);

/// @throws IoError unless it is a regular file that may be written, made where it is missing; a pipe is not waited for
void require_regular(const std::filesystem::path& path);

/// Appends to a file, made where it is missing, and flushes it to the disk. After an error the file is as long as it was.
void append_durably(const std::filesystem::path& path, const std::string& content);

/// Replaces `path` by a temporary file beside it, fsync, rename: a reader sees the old content or the new, never a part.
/// @throws IoError with code EEXIST where something is there that is no regular file (a device, a folder, a pipe): it stays
void replace_file(const std::filesystem::path& path, const std::string& content);
void replace_file(const std::filesystem::path& path, const void* bytes, size_t count);

/// Renames and then flushes the parent folder, so that the new name survives a crash of the machine.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Flushes a folder's own entries to the disk.
void sync_folder(const std::filesystem::path& folder);

/// Asks the system to forget what it holds in memory of a file that is on the disk, so that the next read comes from there. It may decline.
void forget_cached(const std::filesystem::path& path);

/// Holds a file's lock for the life of the object, so that a second job cannot use the same folder; a dead process holds nothing.
class FileLock {
 public:
  /// Makes `path` where it is missing. @throws IoError with code EWOULDBLOCK if another process holds the lock, also a second later
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  /// @returns whether its path still leads to the file that is locked: one that was removed or moved away with its folder keeps nobody out.
  ///          Where one may not look now, it does. @cost two system calls
  bool is_in_place() const;

 private:
  std::filesystem::path path_;
  int descriptor_;
};

/// The lock of a folder itself, likewise. Where the file system has no such locks (some network file systems) it keeps nobody out, but still knows
/// its folder.
class FolderLock {
 public:
  /// @throws IoError with code EWOULDBLOCK if another process holds the lock, also a second later
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  /// @returns whether the path still leads to the folder; where one may not look now, it does.
  bool is_in_place() const;

 private:
  std::filesystem::path path_;
  int descriptor_;
};

/// A read-only memory map of a whole regular file, released with the object. An empty file maps to a null pointer and size 0.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pimoe
