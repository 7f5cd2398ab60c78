#include "data/input_stream.h"

#include <algorithm>

#include "base/errors.h"
#include "base/text.h"
#include "data/byte_source.h"

namespace pimoe {
namespace {

constexpr size_t kBlockBytes = 1 << 20;

}  // namespace

InputStream::InputStream(const std::filesystem::path& path, int64_t begin)
    : path_(path), source_(open_bytes(path, begin)), line_end_(begin) {}
InputStream::~InputStream() = default;

int64_t InputStream::file_position() const { return source_->file_position(); }

void InputStream::skip_to(int64_t position, int64_t lines) {
  if (is_compressed(path_)) {
    std::string passed;
    for (int64_t left = position; left > 0; left -= static_cast<int64_t>(passed.size())) {
      passed.clear();
      if (append(passed, static_cast<size_t>(std::min<int64_t>(left, kBlockBytes)))) continue;
      throw DataError(concat(path_.string(), ": the text ends before byte ", position, ", where a build is to go on"));
    }
  } else {
    source_ = open_bytes(path_, position);
  }
  line_end_ = position;
  line_number_ = lines;
}

bool InputStream::append(std::string& out, size_t count) {
  const size_t before = out.size();
  out.resize(before + count);
  out.resize(before + source_->read(out.data() + before, count));
  return out.size() > before;
}

bool InputStream::read_line(std::string& line) {
  line.clear();
  while (true) {
    if (block_used_ == block_.size()) {
      block_.clear();
      block_used_ = 0;
      if (!append(block_, kBlockBytes)) {
        if (line.empty()) return false;
        ++line_number_;
        return true;
      }
    }
    const size_t newline = block_.find('\n', block_used_);
    const size_t end = std::min(newline, block_.size());
    if (line.size() + (end - block_used_) > kJsonlLineLimit) {
      throw DataError(concat(path_.string(), ":", line_number_ + 1, ": the line is longer than ", kJsonlLineLimit >> 20,
                             " MiB; cut the document into several"));
    }
    line.append(block_, block_used_, end - block_used_);
    line_end_ += static_cast<int64_t>(end - block_used_);
    block_used_ = end;
    if (newline == std::string::npos) continue;
    ++block_used_;
    ++line_end_;
    ++line_number_;
    return true;
  }
}

}  // namespace pimoe
