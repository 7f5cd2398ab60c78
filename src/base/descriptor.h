#pragma once

/// What file_io.cpp and large_file.cpp share of system calls. Seen by base/*.cpp alone.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"

namespace pimoe {

/// @throws IoError "cannot WHAT PATH: the system's reason"
[[noreturn]] inline void refuse_io(const char* what, const std::filesystem::path& path, int code) {
  throw IoError(concat("cannot ", what, " ", path.string(), ": ", std::generic_category().message(code)), code);
}

/// Repeats a system call that a signal interrupted. A slow disk is no hang.
template <class Call>
auto uninterrupted(Call call) {
  const PatientOperation on_a_file;
  while (true) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

/// An open file that closes itself; `close` is for writers, who must know whether it worked.
class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags, const char* purpose) : path_(path) {
    const auto open = [&](int how) { return uninterrupted([&] { return ::open(path.c_str(), how | O_CLOEXEC, 0666); }); };
    number_ = open(flags);
    // Another host has the file, and is asked to give it back: that is waited for, as without O_NONBLOCK.
    if (number_ < 0 && errno == EWOULDBLOCK) number_ = open(flags & ~O_NONBLOCK);
    if (number_ >= 0) return;
    // A pipe that nobody reads, opened with O_NONBLOCK, or a socket.
    if (errno == ENXIO) throw IoError(concat("cannot ", purpose, " ", path.string(), ": it is no regular file"), ENXIO);
    refuse_io(purpose, path, errno);
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  const std::filesystem::path& path() const { return path_; }
  int number() const { return number_; }

  /// Opened with O_NONBLOCK, or the opening of a pipe would wait for its other end.
  void require_regular(const char* purpose) const {
    struct stat status {};
    if (::fstat(number_, &status) != 0) refuse_io(purpose, path_, errno);
    if (S_ISDIR(status.st_mode)) refuse_io(purpose, path_, EISDIR);
    if (!S_ISREG(status.st_mode)) throw IoError(concat("cannot ", purpose, " ", path_.string(), ": it is no regular file"), ENXIO);
    ::fcntl(number_, F_SETFL, ::fcntl(number_, F_GETFL) & ~O_NONBLOCK);  // some file systems heed it in what comes after
  }

  uint64_t size() const {
    struct stat status {};
    if (::fstat(number_, &status) != 0) refuse_io("read", path_, errno);
    return static_cast<uint64_t>(status.st_size);
  }

  /// @returns bytes read; 0 at the end of the file.
  size_t read(void* out, size_t count) const {
    const ssize_t got = uninterrupted([&] { return ::read(number_, out, count); });
    if (got < 0) refuse_io("read", path_, errno);
    return static_cast<size_t>(got);
  }

  /// Likewise, from a place of the file.
  size_t read_at(uint64_t offset, void* out, size_t count) const {
    const ssize_t got = uninterrupted([&] { return ::pread(number_, out, count, static_cast<off_t>(offset)); });
    if (got < 0) refuse_io("read", path_, errno);
    return static_cast<size_t>(got);
  }

  void write(const void* bytes, size_t count) const {
    const auto* at = static_cast<const char*>(bytes);
    while (count > 0) {
      const ssize_t written = uninterrupted([&] { return ::write(number_, at, count); });
      if (written < 0) refuse_io("write", path_, errno);
      at += written;
      count -= static_cast<size_t>(written);
    }
  }

  void sync() const {
    if (uninterrupted([&] { return ::fsync(number_); }) != 0) refuse_io("flush", path_, errno);
  }

  void close() {
    // Network file systems report a full disk here. After EINTR Linux has closed the file all the same.
    if (::close(std::exchange(number_, -1)) != 0 && errno != EINTR) refuse_io("close", path_, errno);
  }

 private:
  std::filesystem::path path_;
  int number_ = -1;
};

}  // namespace pimoe
