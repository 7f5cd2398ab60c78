#include "base/file_io.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "base/descriptor.h"
#include "base/errors.h"
#include "base/text.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

template <class Buffer>
Buffer read_whole(const fs::path& path, uint64_t limit_bytes, bool regular = false) {
  const auto refuse_larger = [&] {
    throw IoError(
        concat("cannot read ", path.string(), ": it is larger than the limit of ", grouped(static_cast<int64_t>(limit_bytes)), " bytes"),
        EFBIG);
  };
  const Descriptor file(path, regular ? O_RDONLY | O_NONBLOCK : O_RDONLY, "read");
  if (regular) file.require_regular("read");
  const uint64_t expected = file.size();
  if (expected > limit_bytes) refuse_larger();
  Buffer content(expected, {});
  size_t filled = 0;
  while (filled < content.size()) {
    const size_t got = file.read(content.data() + filled, content.size() - filled);
    if (got == 0) break;
    filled += got;
  }
  content.resize(filled);
  // A pipe and a file under /proc have no size; a file may have grown.
  std::array<typename Buffer::value_type, 16384> more;
  while (const size_t got = file.read(more.data(), more.size())) {
    if (content.size() + got > limit_bytes) refuse_larger();
    content.insert(content.end(), more.begin(), more.begin() + static_cast<std::ptrdiff_t>(got));
  }
  return content;
}

/// Takes the lock of an open file. @returns 0, or the reason why not
int lock_now(int descriptor) {
  int code = 0;
  // Who looks whether it is held (launch/supervise.sh does) holds it for a moment.
  for (int tries = 0; tries < 20; ++tries) {
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return 0;
    code = errno;
    if (code != EWOULDBLOCK && code != EINTR) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return code;
}

/// Whether a path still leads to an open file; where one may not look now, it does.
bool leads_to(const fs::path& path, int descriptor) {
  struct stat held {};
  struct stat found {};
  if (::fstat(descriptor, &held) != 0) return true;
  if (::stat(path.c_str(), &found) != 0) return errno != ENOENT && errno != ENOTDIR;
  return held.st_dev == found.st_dev && held.st_ino == found.st_ino;
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

}  // namespace

bool is_there(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  refuse_io("look at", path, errno);
}

std::string read_file(const fs::path& path, uint64_t limit_bytes) { return read_whole<std::string>(path, limit_bytes); }

std::string read_regular_file(const fs::path& path, uint64_t limit_bytes) {
  return read_whole<std::string>(path, limit_bytes, /*regular=*/true);
}

std::vector<std::byte> read_regular_bytes(const fs::path& path, uint64_t limit_bytes) {
  return read_whole<std::vector<std::byte>>(path, limit_bytes, /*regular=*/true);
}

void write_durably(const fs::path& path, const void* bytes, size_t count) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK, "write");
  file.require_regular("write");
  file.write(bytes, count);
  file.sync();
  file.close();
}

void require_regular(const fs::path& path) { Descriptor(path, O_WRONLY | O_CREAT | O_NONBLOCK, "write").require_regular("write"); }

void append_durably(const fs::path& path, const std::string& content) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, "write");
  file.require_regular("write");
  const uint64_t before = file.size();
  try {
    file.write(content.data(), content.size());
    file.sync();
  } catch (const IoError&) {
    static_cast<void>(::ftruncate(file.number(), static_cast<off_t>(before)) == 0);  // the error that there is says more than another
    throw;
  }
  file.close();
}

void replace_file(const fs::path& path, const std::string& content) { replace_file(path, content.data(), content.size()); }

void replace_file(const fs::path& path, const void* bytes, size_t count) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw IoError(concat("cannot write ", path.string(), ": it is there, and is no regular file"), EEXIST);
  }
  // A thread's id is its own on this machine, so that two writers never share a temporary file.
  fs::path temporary = path;
  temporary += concat(".tmp-", ::gettid());
  try {
    write_durably(temporary, bytes, count);
    rename_durably(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (uninterrupted([&] { return ::rename(from.c_str(), to.c_str()); }) != 0) {
    const int code = errno;
    throw IoError(concat("cannot rename ", from.string(), " to ", to.string(), ": ", std::generic_category().message(code)), code);
  }
  sync_folder(folder_of(to));
  if (folder_of(from) != folder_of(to)) sync_folder(folder_of(from));
}

void sync_folder(const fs::path& folder) {
  const Descriptor entries(folder, O_RDONLY | O_DIRECTORY, "open folder");
  try {
    entries.sync();
  } catch (const IoError& error) {
    if (error.code() != EINVAL) throw;  // some network file systems know no fsync of a folder; they write names through
  }
}

void forget_cached(const fs::path& path) {
  const Descriptor file(path, O_RDONLY | O_NONBLOCK, "read");
  static_cast<void>(::posix_fadvise(file.number(), 0, 0, POSIX_FADV_DONTNEED));
}

FileLock::FileLock(const fs::path& path) : path_(path), descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  int code = errno;
  struct stat status {};
  // A pipe that is opened both ways waits for nobody; a socket cannot be opened.
  const bool is_other = descriptor_ >= 0 && ::fstat(descriptor_, &status) == 0 && !S_ISREG(status.st_mode);
  if (is_other || (descriptor_ < 0 && code == ENXIO)) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw IoError(concat("cannot lock ", path.string(), ": it is no regular file, and must be one: remove it, or move it away"), ENXIO);
  }
  if (code == EISDIR && descriptor_ < 0) {
    throw IoError(concat("cannot lock ", path.string(), ": it is a folder, and must be a file: remove it, or move it away"), code);
  }
  if (descriptor_ >= 0) {
    code = lock_now(descriptor_);
    if (code == 0) return;
    ::close(descriptor_);
  }
  throw IoError(concat("cannot lock ", path.string(), ": ", std::generic_category().message(code)), code);
}

FileLock::~FileLock() { ::close(descriptor_); }

bool FileLock::is_in_place() const { return leads_to(path_, descriptor_); }

FolderLock::FolderLock(const fs::path& folder) : path_(folder), descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (descriptor_ < 0) refuse_io("open folder", folder, errno);
  if (lock_now(descriptor_) != EWOULDBLOCK) return;
  ::close(descriptor_);
  throw IoError(concat("cannot lock ", folder.string(), ": another process holds its lock"), EWOULDBLOCK);
}

FolderLock::~FolderLock() { ::close(descriptor_); }

bool FolderLock::is_in_place() const { return leads_to(path_, descriptor_); }

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor file(path, O_RDONLY | O_NONBLOCK, "map");
  file.require_regular("map");
  size_ = file.size();
  if (size_ == 0) return;
  void* const address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.number(), 0);
  if (address == MAP_FAILED) refuse_io("map", path, errno);
  data_ = static_cast<std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace pimoe
