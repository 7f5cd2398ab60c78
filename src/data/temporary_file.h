#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace pimoe {

/// A large file that is written under another name than its final one, and vanishes unless it is published; one that can be gone on with stays.
///
/// Every function throws IoError with the path and the system's reason. Not thread-safe.
class TemporaryFile {
 public:
  /// Creates `final_name`.partial-PID; the folder must exist.
  explicit TemporaryFile(const std::filesystem::path& final_name);
  /// Goes on with `working_name`, whose first `kept_bytes` stay; 0 makes it. It stays where it is not published.
  /// @throws DataError where it has fewer
  TemporaryFile(const std::filesystem::path& final_name, const std::filesystem::path& working_name, int64_t kept_bytes);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void append(const void* bytes, size_t count);
  /// Replaces bytes that were appended before.
  void overwrite(int64_t offset, const void* bytes, size_t count);
  /// Reads bytes that were appended before.
  void read(int64_t offset, void* out, size_t count);
  int64_t size() const { return written_ + static_cast<int64_t>(buffer_.size()); }

  /// Everything is on the disk when this returns: a full disk shows here at the latest.
  void sync();
  /// Gives the file its final name, durably. REQUIRES sync after the last append.
  void publish();

 private:
  void flush();

  std::filesystem::path final_name_;
  std::filesystem::path temporary_name_;
  bool stays_ = false;
  int descriptor_ = -1;
  int64_t written_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace pimoe
