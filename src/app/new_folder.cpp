#include "app/new_folder.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "checkpoint/local_save.h"

namespace pimoe {

namespace fs = std::filesystem;

fs::path without_slash(const fs::path& path) { return (path / "").lexically_normal().parent_path(); }

NewFolder::NewFolder(const fs::path& folder) : folder_(without_slash(folder)), temporary_(fs::path(folder_) += ".unfinished") {
  if (is_there(folder_) && !(fs::is_directory(folder_) && fs::is_empty(folder_))) {
    throw UsageError(concat("--output (", folder_.string(), ") must not be there yet, or be an empty folder"));
  }
  make_empty_folder(temporary_);
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void NewFolder::publish() {
  rename_durably(temporary_, folder_);  // replaces an empty folder
  temporary_.clear();
}

}  // namespace pimoe
