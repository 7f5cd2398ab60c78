#include "base/lfs_pointer.h"

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {

void refuse_lfs_pointer(std::string_view content, const std::string& name) {
  if (content.starts_with("version https://git-lfs.github.com/spec/")) {
    throw DataError(concat(name, ": is a pointer of Git LFS, and not the file itself: `git lfs pull` in its clone fetches that"));
  }
}

}  // namespace pimoe
