#include "base/large_file.h"

#include "base/errors.h"
#include "base/progress.h"
#include "base/text.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse_io(const char* what, const fs::path& path, int code) {
  throw IoError(concat("cannot ", what, " ", path.string(), ": ", std::generic_category().message(code)), code);
}

template <class Call>
auto uninterrupted(Call call) {
  const PatientOperation on_a_file;
  while (true) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

}  // namespace

LargeFileReader::LargeFileReader(const fs::path& path) : path_(path) {
  // Without O_NONBLOCK the opening of a pipe would wait for its other end.
  descriptor_ = uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC); });
  if (descriptor_ < 0) refuse_io("read", path, errno);
  struct stat status {};
  const int code = ::fstat(descriptor_, &status) != 0 ? errno : S_ISDIR(status.st_mode) ? EISDIR : S_ISREG(status.st_mode) ? 0 : ENXIO;
  if (code != 0) {
    ::close(std::exchange(descriptor_, -1));
    if (code == ENXIO) throw IoError(concat("cannot read ", path.string(), ": it is no regular file"), code);
    refuse_io("read", path, code);
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

LargeFileReader::~LargeFileReader() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

LargeFileReader::LargeFileReader(LargeFileReader&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}

LargeFileReader& LargeFileReader::operator=(LargeFileReader&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

void LargeFileReader::read(uint64_t offset, void* out, size_t count) const {
  auto* at = static_cast<char*>(out);
  while (count > 0) {
    const ssize_t got = uninterrupted([&] { return ::pread(descriptor_, at, count, static_cast<off_t>(offset)); });
    if (got < 0) refuse_io("read", path_, errno);
    if (got == 0)
      throw IoError(concat("cannot read ", path_.string(), ": it ends before byte ", grouped(static_cast<int64_t>(offset))), EIO);
    at += got;
    offset += static_cast<uint64_t>(got);
    count -= static_cast<size_t>(got);
  }
}

LargeFileWriter::LargeFileWriter(const fs::path& path) : path_(path) {
  descriptor_ = uninterrupted([&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
  if (descriptor_ < 0) refuse_io("write", path, errno);
}

LargeFileWriter::~LargeFileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void LargeFileWriter::append(const void* bytes, size_t count) {
  const auto* at = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = uninterrupted([&] { return ::write(descriptor_, at, count); });
    if (written < 0) refuse_io("write", path_, errno);
    at += written;
    count -= static_cast<size_t>(written);
  }
}

void LargeFileWriter::finish() {
  if (uninterrupted([&] { return ::fsync(descriptor_); }) != 0) refuse_io("flush", path_, errno);
  // Network file systems report a full disk here. After EINTR Linux has closed the file all the same.
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) refuse_io("close", path_, errno);
}

}  // namespace pimoe
