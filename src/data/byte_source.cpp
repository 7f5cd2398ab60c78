#include "data/byte_source.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBlockBytes = 256 << 10;
constexpr int kGzipWindow = 15 + 16;  // zlib's: the largest window, and gzip's header

class PlainBytes : public ByteSource {
 public:
  PlainBytes(const fs::path& path, int64_t begin) : path_(path), position_(begin) {
    errno = 0;
    file_.open(path, std::ios::binary);
    if (file_ && begin > 0) file_.seekg(begin);
    if (!file_) throw IoError(concat("cannot read ", path.string(), ": ", std::generic_category().message(errno)), errno);
  }

  size_t read(char* out, size_t count) override {
    file_.read(out, static_cast<std::streamsize>(count));
    if (file_.bad()) throw IoError(concat("cannot read ", path_.string(), ": ", std::generic_category().message(errno)), errno);
    const auto got = static_cast<size_t>(file_.gcount());
    position_ += static_cast<int64_t>(got);
    return got;
  }

  int64_t file_position() const override { return position_; }

 private:
  fs::path path_;
  std::ifstream file_;
  int64_t position_ = 0;
};

/// A compressed file's own bytes, a block at a time.
class Compressed : public ByteSource {
 public:
  explicit Compressed(const fs::path& path) : path_(path), file_(path, 0), block_(kBlockBytes) {}
  int64_t file_position() const override { return file_.file_position() - static_cast<int64_t>(left_); }

 protected:
  /// @returns whether there is something to decompress
  bool has_input() {
    if (left_ == 0) {
      left_ = file_.read(block_.data(), block_.size());
      used_ = 0;
    }
    return left_ > 0;
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw DataError(concat(path_.string(), " cannot be decompressed behind byte ", grouped(file_position()), ": ", why));
  }
  [[noreturn]] void refuse_end() const { refuse("it ends in the middle: it was cut, or is still being written"); }

  fs::path path_;
  PlainBytes file_;
  std::vector<char> block_;
  size_t used_ = 0;  ///< of the block
  size_t left_ = 0;
};

class GzipBytes : public Compressed {
 public:
  explicit GzipBytes(const fs::path& path) : Compressed(path) {
    if (inflateInit2(&stream_, kGzipWindow) != Z_OK) throw Error("zlib cannot be set up");
  }
  ~GzipBytes() override { inflateEnd(&stream_); }
  GzipBytes(const GzipBytes&) = delete;
  GzipBytes& operator=(const GzipBytes&) = delete;

  size_t read(char* out, size_t count) override {
    size_t got = 0;
    while (got < count) {
      if (!has_input()) {
        if (is_inside_) refuse_end();
        break;
      }
      is_inside_ = true;
      stream_.next_in = reinterpret_cast<Bytef*>(block_.data() + used_);
      stream_.avail_in = static_cast<uInt>(left_);
      stream_.next_out = reinterpret_cast<Bytef*>(out + got);
      stream_.avail_out = static_cast<uInt>(std::min<size_t>(count - got, kBlockBytes));
      const uInt room = stream_.avail_out;
      const int result = inflate(&stream_, Z_NO_FLUSH);
      used_ += left_ - stream_.avail_in;
      left_ = stream_.avail_in;
      got += room - stream_.avail_out;
      if (result == Z_STREAM_END) {  // another stream may follow
        is_inside_ = false;
        inflateReset(&stream_);
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        refuse(stream_.msg == nullptr ? "zlib takes it for no gzip file" : stream_.msg);
      }
    }
    return got;
  }

 private:
  z_stream stream_{};
  bool is_inside_ = false;  ///< of a stream
};

class ZstandardBytes : public Compressed {
 public:
  explicit ZstandardBytes(const fs::path& path) : Compressed(path), stream_(ZSTD_createDStream()) {
    if (!stream_) throw Error("zstd cannot be set up");
  }

  size_t read(char* out, size_t count) override {
    ZSTD_outBuffer output{out, count, 0};
    while (output.pos < count) {
      const bool has_more = has_input();
      if (!has_more && !is_inside_) break;
      ZSTD_inBuffer input{block_.data() + used_, left_, 0};
      const size_t before = output.pos;
      const size_t result = ZSTD_decompressStream(stream_.get(), &output, &input);
      if (ZSTD_isError(result) != 0) refuse(ZSTD_getErrorName(result));
      used_ += input.pos;
      left_ -= input.pos;
      is_inside_ = result != 0;
      if (!has_more && is_inside_ && output.pos == before) refuse_end();
    }
    return output.pos;
  }

 private:
  struct Free {
    void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
  };
  std::unique_ptr<ZSTD_DStream, Free> stream_;
  bool is_inside_ = false;  ///< of a frame, or its text is not all handed out
};

}  // namespace

bool is_compressed(const fs::path& path) { return path.extension() == ".gz" || path.extension() == ".zst"; }

std::unique_ptr<ByteSource> open_bytes(const fs::path& path, int64_t begin) {
  if (path.extension() == ".gz") return std::make_unique<GzipBytes>(path);
  if (path.extension() == ".zst") return std::make_unique<ZstandardBytes>(path);
  return std::make_unique<PlainBytes>(path, begin);
}

}  // namespace pimoe
