#include "train/growing_file.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/progress.h"
#include "base/text.h"

#include <cerrno>
#include <system_error>
#include <utility>

namespace pimoe {

GrowingFile::GrowingFile(std::filesystem::path path) : path_(std::move(path)) {}

void GrowingFile::open() {
  std::filesystem::create_directory(path_.parent_path());
  require_regular(path_);  // a pipe in its place would keep the run waiting for a reader
  errno = 0;
  out_.open(path_, std::ios::binary | std::ios::app);
  if (!out_) throw IoError(concat("cannot write ", path_.string(), ": ", std::generic_category().message(errno)), errno);
  if (is_known_) std::filesystem::resize_file(path_, good_bytes_);
  good_bytes_ = std::filesystem::file_size(path_);
  if (!is_known_ && good_bytes_ > 0) end_torn_line();
  is_known_ = true;
}

void GrowingFile::end_torn_line() {
  std::ifstream in(path_, std::ios::binary);
  in.seekg(-1, std::ios::end);
  if (in.get() != '\n') pending_.insert(pending_.begin(), '\n');
}

std::string GrowingFile::append(const std::string& bytes) try {
  const PatientOperation on_a_file;  // a disk that stands still for a while is no hang
  pending_ += bytes;
  if (pending_.empty()) return "";
  if (!out_.is_open()) open();
  out_ << pending_ << std::flush;
  if (out_) {
    good_bytes_ += pending_.size();
    pending_.clear();
    return "";
  }
  out_.close();
  out_.clear();
  return concat("cannot write ", path_.string(), " (is the disk full?)");
} catch (const IoError& error) {  // the contract
  out_.close();
  out_.clear();
  return error.what();
} catch (const std::filesystem::filesystem_error& error) {
  out_.close();
  out_.clear();
  return concat("cannot write ", path_.string(), ": ", error.code().message());
}

}  // namespace pimoe
