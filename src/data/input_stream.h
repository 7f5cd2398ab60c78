#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace pimoe {

/// Longest line of a .jsonl; a longer one is a mistake in the file more often than a document.
inline constexpr size_t kJsonlLineLimit = 256 << 20;

class ByteSource;

/// A file that is read from front to back, or from a place in it. What ends in .gz or .zst is read as what it is compressed of.
class InputStream {
 public:
  /// @param begin  byte of the file at which it begins; 0 for compressed ones
  /// @throws IoError if it cannot be opened.
  explicit InputStream(const std::filesystem::path& path, int64_t begin = 0);
  ~InputStream();

  /// Goes on at a place in the text, which is behind as many lines. REQUIRES nothing read, and begin 0.
  /// @throws IoError; DataError where the text is shorter  @cost none, but of compressed files: reads up to there
  void skip_to(int64_t position, int64_t lines);

  /// Appends up to `count` bytes to `out`. @returns false at the end of the file. @throws IoError; DataError for damaged compression
  bool append(std::string& out, size_t count);
  /// Reads a line without its newline. @returns false at the end of the file.
  /// @throws DataError naming the line if it is longer than kJsonlLineLimit; IoError
  bool read_line(std::string& line);
  /// @returns lines read so far
  int64_t line_number() const { return line_number_; }
  /// @returns the place in the text after the line that was read last, its newline included
  int64_t line_end() const { return line_end_; }
  /// @returns bytes of the file, compressed as it is, that were read so far
  int64_t file_position() const;

 private:
  std::filesystem::path path_;
  std::unique_ptr<ByteSource> source_;
  std::string block_;
  size_t block_used_ = 0;
  int64_t line_number_ = 0;
  int64_t line_end_ = 0;
};

}  // namespace pimoe
