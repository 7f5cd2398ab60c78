#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace pimoe {

/// A file that is appended to while a run goes on, and that is no reason to end it: nothing throws, what cannot be written waits in memory and
/// is written with what comes next, and a part that a full disk has cut is taken back before.
class GrowingFile {
 public:
  /// Opens nothing yet. @param path  its folder is made where it is missing, but not the one around it; what the file has stays
  explicit GrowingFile(std::filesystem::path path);

  /// One write, seen at once by whoever reads the file. @returns "" or why it could not be written
  std::string append(const std::string& bytes);
  /// Writes what could not be written before. @returns as append
  std::string flush() { return append(""); }
  const std::filesystem::path& path() const { return path_; }

 private:
  /// @throws IoError, std::filesystem::filesystem_error
  void open();
  /// Where an earlier process was ended amid a line, what comes next is a line of its own. Only files of lines have an earlier process.
  void end_torn_line();

  std::filesystem::path path_;
  std::ofstream out_;
  bool is_known_ = false;    ///< whether good_bytes_ is
  uint64_t good_bytes_ = 0;  ///< written as a whole
  std::string pending_;
};

}  // namespace pimoe
