#include "base/large_file.h"

#include "base/descriptor.h"

namespace pimoe {

namespace fs = std::filesystem;

// Without O_NONBLOCK the opening of a pipe would wait for its other end.
LargeFileReader::LargeFileReader(const fs::path& path) : file_(std::make_unique<Descriptor>(path, O_RDONLY | O_NONBLOCK, "read")) {
  file_->require_regular("read");
  size_ = file_->size();
}

LargeFileReader::~LargeFileReader() = default;
LargeFileReader::LargeFileReader(LargeFileReader&& other) noexcept = default;
LargeFileReader& LargeFileReader::operator=(LargeFileReader&& other) noexcept = default;

const fs::path& LargeFileReader::path() const { return file_->path(); }

void LargeFileReader::read(uint64_t offset, void* out, size_t count) const {
  auto* at = static_cast<char*>(out);
  while (count > 0) {
    const size_t got = file_->read_at(offset, at, count);
    if (got == 0) {
      throw IoError(concat("cannot read ", path().string(), ": it now ends before byte ", grouped(static_cast<int64_t>(offset)),
                           ", and had ", grouped(static_cast<int64_t>(size_)), " bytes when it was opened: it was cut while it was in use"),
                    EIO);
    }
    at += got;
    offset += got;
    count -= got;
  }
}

LargeFileWriter::LargeFileWriter(const fs::path& path) : file_(std::make_unique<Descriptor>(path, O_WRONLY | O_CREAT | O_EXCL, "write")) {}

LargeFileWriter::~LargeFileWriter() = default;

void LargeFileWriter::append(const void* bytes, size_t count) { file_->write(bytes, count); }

void LargeFileWriter::finish() {
  file_->sync();
  file_->close();
}

}  // namespace pimoe
