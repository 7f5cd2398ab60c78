#include "bench/scratch_folder.h"

#include "base/errors.h"
#include "base/run_paths.h"
#include "base/text.h"

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

namespace pimoe {

namespace fs = std::filesystem;

namespace {
constexpr int kTries = 20;
}

ScratchFolder::ScratchFolder(const fs::path& run_folder, const ProcessMesh& mesh)
    : path_(RunPaths(run_folder).bench()), rank_(mesh.rank()) {
  std::string trouble;
  if (rank_ == 0) {
    std::error_code error;
    for (fs::path above = path_.parent_path(); !above.empty() && !fs::exists(above, error); above = above.parent_path())
      made_.push_back(above);
    // What has no lock is nobody's benchmark, whatever it is called.
    if (fs::exists(path_, error) && !fs::is_empty(path_, error) && !fs::exists(path_ / "lock", error)) {
      throw IoError(concat(path_.string(), " is there and is not of a benchmark: remove it, or choose another run.directory"), EEXIST);
    }
    fs::create_directories(path_, error);
    if (error) throw IoError(concat("cannot make ", path_.string(), ": ", error.message()), error.value());
    try {
      lock_ = std::make_unique<FileLock>(path_ / "lock");
    } catch (const IoError& refused) {
      if (refused.code() != EWOULDBLOCK) throw;
      trouble = concat("another benchmark is at work in ", path_.string(), ": wait for it, or choose another run.directory");
    }
  }
  if (const std::string agreed = mesh.control().agree(trouble); !agreed.empty()) throw ConfigError(agreed);
  if (rank_ == 0) {
    for (const fs::directory_entry& left : fs::directory_iterator(path_)) {
      if (left.path().filename() != "lock") fs::remove_all(left.path());
    }
  }
  if (lock_) ended_early_ = std::make_unique<CleanupBySignal>([this] { remove(); });
  mesh.control().barrier();
}

ScratchFolder::~ScratchFolder() {
  if (lock_) remove();
}

void ScratchFolder::remove() const {
  std::error_code ignored;
  // Where a signal ends all ranks, others may be writing still.
  fs::remove_all(path_, ignored);
  for (int tries = 1; tries < kTries && fs::exists(path_, ignored); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    fs::remove_all(path_, ignored);
  }
  for (const fs::path& folder : made_) fs::remove(folder, ignored);  // innermost first; what is not empty stays
}

}  // namespace pimoe
