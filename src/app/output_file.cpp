#include "app/output_file.h"

#include "base/errors.h"
#include "base/text.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace pimoe {

namespace fs = std::filesystem;

void require_writable(const fs::path& file) {
  const auto refuse = [&](const std::string& why, int code) { throw IoError(concat("cannot write ", file.string(), ": ", why), code); };
  const fs::path folder = file.parent_path().empty() ? "." : file.parent_path();
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) refuse(concat("there is no folder ", folder.string()), ENOENT);
  if (fs::is_directory(file, ignored)) refuse("it is a folder", EISDIR);
  if (fs::exists(file, ignored) && !fs::is_regular_file(file, ignored)) refuse("it is there, and is no regular file", EEXIST);
  // It is written under another name in this folder first, so that its own permissions do not matter. Only trying says whether that is possible: root is
  // told that it may write to /proc.
  const std::string trial = concat(file.string(), ".tmp-", ::getpid());
  const int descriptor = ::open(trial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor < 0 && errno == EEXIST) return;  // another rank, of the same number in a container of its own, asks at the same moment
  if (descriptor < 0) refuse(std::generic_category().message(errno), errno);
  ::close(descriptor);
  ::unlink(trial.c_str());
}

}  // namespace pimoe
