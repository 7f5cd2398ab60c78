#include "checkpoint/local_save.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "checkpoint/piece_check.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/verification.h"

#include <utility>
#include <vector>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// The folders above `path` that are not there yet, innermost first.
std::vector<fs::path> missing_folders_above(const fs::path& path) {
  std::vector<fs::path> missing;
  std::error_code ignored;
  for (fs::path folder = path.parent_path(); !folder.empty() && !fs::exists(folder, ignored); folder = folder.parent_path()) {
    missing.push_back(folder);
  }
  return missing;
}

}  // namespace

void make_empty_folder(const fs::path& folder) {
  std::error_code failed;
  fs::remove_all(folder, failed);
  if (!failed) fs::create_directories(folder, failed);
  if (failed) throw IoError(concat("cannot make ", folder.string(), ": ", failed.message()), failed.value());
}

void commit_checkpoint(const fs::path& temporary, const fs::path& checkpoint, const Manifest& manifest) {
  const std::string text = to_json(manifest);
  write_durably(temporary / "manifest.json", text.data(), text.size());
  commit_folder(temporary, checkpoint);
}

void write_checkpoint(const fs::path& checkpoint, Manifest manifest, const std::function<void(ShardWriter&)>& write_files,
                      std::function<void(const StoredFile&)> written) {
  fs::path temporary;
  const std::vector<fs::path> made = missing_folders_above(checkpoint);
  const auto sweep = [&] {
    std::error_code swept_later;
    if (!temporary.empty()) fs::remove_all(temporary, swept_later);
    for (const fs::path& folder : made) fs::remove(folder, swept_later);  // of which only empty ones go
  };
  const std::string what = concat("checkpoint ", checkpoint.string(), " was not written: ");
  try {
    if (fs::exists(checkpoint)) throw CheckpointError("it exists already");
    temporary = make_temporary(checkpoint);
    ShardWriter writer(temporary, manifest, std::move(written));
    write_files(writer);
    writer.finish();
    if (const std::string gap = coverage_trouble(manifest.pieces); !gap.empty()) throw CheckpointError(gap);
    commit_checkpoint(temporary, checkpoint, manifest);
  } catch (const DamageError& error) {  // of the one that it is made of: no other try would mend it
    sweep();
    throw DamageError(concat(what, error.what()));
  } catch (const std::exception& error) {  // the contract: whatever goes wrong, it was not saved
    sweep();
    throw SaveError(concat(what, error.what()));
  }
}

}  // namespace pimoe
