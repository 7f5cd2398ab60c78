#include "data/temporary_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"

namespace pimoe {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

[[noreturn]] void refuse_io(const char* what, const std::filesystem::path& path) {
  const int code = errno;
  throw IoError(concat("cannot ", what, " ", path.string(), ": ", std::generic_category().message(code)), code);
}

void write_at(int descriptor, int64_t offset, const void* bytes, size_t count, const std::filesystem::path& path) {
  const auto* at = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = ::pwrite(descriptor, at, count, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) refuse_io("write", path);
    at += written;
    offset += written;
    count -= static_cast<size_t>(written);
  }
}

}  // namespace

TemporaryFile::TemporaryFile(const std::filesystem::path& final_name) : final_name_(final_name), temporary_name_(final_name) {
  temporary_name_ += concat(".partial-", ::getpid());
  descriptor_ = ::open(temporary_name_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) refuse_io("write", temporary_name_);
  buffer_.reserve(kBufferBytes);
}

TemporaryFile::TemporaryFile(const std::filesystem::path& final_name, const std::filesystem::path& working_name, int64_t kept_bytes)
    : final_name_(final_name), temporary_name_(working_name), stays_(true), written_(kept_bytes) {
  descriptor_ = ::open(temporary_name_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) refuse_io("write", temporary_name_);
  try {
    struct stat facts {};
    if (::fstat(descriptor_, &facts) != 0) refuse_io("look at", temporary_name_);
    if (facts.st_size < kept_bytes) {
      throw DataError(concat(temporary_name_.string(), " has ", facts.st_size, " bytes, and must have at least ", kept_bytes));
    }
    if (::ftruncate(descriptor_, kept_bytes) != 0) refuse_io("cut", temporary_name_);
  } catch (const Error&) {
    ::close(descriptor_);
    throw;
  }
  buffer_.reserve(kBufferBytes);
}

TemporaryFile::~TemporaryFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!stays_) ::unlink(temporary_name_.c_str());
}

void TemporaryFile::append(const void* bytes, size_t count) {
  if (buffer_.size() + count > kBufferBytes) flush();
  if (count > kBufferBytes) {
    write_at(descriptor_, written_, bytes, count, temporary_name_);
    written_ += static_cast<int64_t>(count);
    return;
  }
  const auto* first = static_cast<const std::byte*>(bytes);
  buffer_.insert(buffer_.end(), first, first + count);
}

void TemporaryFile::overwrite(int64_t offset, const void* bytes, size_t count) {
  flush();
  write_at(descriptor_, offset, bytes, count, temporary_name_);
}

void TemporaryFile::read(int64_t offset, void* out, size_t count) {
  flush();
  auto* at = static_cast<char*>(out);
  while (count > 0) {
    const ssize_t got = ::pread(descriptor_, at, count, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) errno = EIO;  // someone cut the file while it was being written
    if (got <= 0) refuse_io("read back", temporary_name_);
    at += got;
    offset += got;
    count -= static_cast<size_t>(got);
  }
}

void TemporaryFile::sync() {
  flush();
  while (::fsync(descriptor_) != 0) {
    if (errno != EINTR) refuse_io("flush", temporary_name_);
  }
}

void TemporaryFile::publish() {
  rename_durably(temporary_name_, final_name_);
  ::close(std::exchange(descriptor_, -1));
}

void TemporaryFile::flush() {
  write_at(descriptor_, written_, buffer_.data(), buffer_.size(), temporary_name_);
  written_ += static_cast<int64_t>(buffer_.size());
  buffer_.clear();
}

}  // namespace pimoe
