#include "checkpoint/step_folders.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "checkpoint/verification.h"

#include <algorithm>
#include <charconv>
#include <string_view>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step-";
constexpr const char* kBad = ".bad";
constexpr const char* kOld = ".old";
constexpr const char* kTemporary = ".tmp";
constexpr int kMostTemporaries = 100;
constexpr int kDigits = 8;

/// The functions of std::filesystem with our error: path and reason.
[[noreturn]] void refuse(const char* what, const fs::path& path, const std::error_code& reason) {
  throw IoError(concat("cannot ", what, " ", path.string(), ": ", reason.message()), reason.value());
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator entry(folder, failed), end; !failed && entry != end; entry.increment(failed)) {
    names.push_back(entry->path().filename().string());
  }
  if (failed && failed != std::errc::no_such_file_or_directory) refuse("list", folder, failed);
  std::sort(names.begin(), names.end());
  return names;
}

void remove_folder(const fs::path& path) {
  std::error_code failed;
  // First the manifest: what is half deleted must not look like a checkpoint. Of a link the link alone goes: what it leads to is not this run's.
  if (!fs::is_symlink(path)) fs::remove(path / "manifest.json", failed);
  fs::remove_all(path, failed);
  if (failed) refuse("remove", path, failed);
}

fs::path with_suffix(fs::path path, const std::string& suffix) { return path += suffix; }

/// "step-00000100.old", or -2 and so on behind it: the first number from `number` on that nothing has.
fs::path free_name(const fs::path& checkpoint, const std::string& suffix, int number = 1) {
  fs::path name = with_suffix(checkpoint, number == 1 ? suffix : concat(suffix, "-", number));
  while (fs::exists(fs::symlink_status(name))) name = with_suffix(checkpoint, concat(suffix, "-", ++number));
  return name;
}

/// Whether a name is that of a step's folder with `suffix`, numbered or not.
bool has_suffix(const fs::path& name, const std::string& suffix) {
  const std::string own = name.extension().string();
  return step_of(name.stem().string()) && (own == suffix || own.starts_with(suffix + "-"));
}

/// Does something with one folder; what goes wrong is written down.
template <class Work>
void try_with(const fs::path& folder, FolderWork& all, const Work& work) {
  try {
    work();
  } catch (const IoError& error) {  // the contract: one that resists keeps nobody from the others
    all.troubles[folder] = error.what();
  }
}

}  // namespace

std::string step_name(int64_t step) { return concat(kPrefix, padded(step, kDigits)); }

std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
  const bool whole = error == std::errc() && end == name.data() + name.size();
  return whole && step >= 0 && step_name(step) == name ? std::optional(step) : std::nullopt;
}

std::vector<StepFolder> list_steps(const fs::path& folder) {
  std::vector<StepFolder> steps;
  for (const std::string& name : names_in(folder)) {
    if (const auto step = step_of(name)) steps.push_back({*step, folder / name});
  }
  std::sort(steps.begin(), steps.end(), [](const StepFolder& a, const StepFolder& b) { return a.step < b.step; });
  return steps;
}

std::optional<int64_t> newest_step(const fs::path& folder) {
  const std::vector<StepFolder> steps = list_steps(folder);
  return steps.empty() ? std::nullopt : std::optional(steps.back().step);
}

FolderWork sweep_leftovers(const fs::path& folder) {
  FolderWork all;
  for (const std::string& name : names_in(folder)) {
    const fs::path leftover = folder / name;
    const fs::path original = folder / leftover.stem();
    try_with(leftover, all, [&] {
      if (has_suffix(name, kTemporary)) {
        remove_folder(leftover);
        all.done.push_back(concat("removed ", leftover.string(), ", which a save left unfinished"));
      } else if (has_suffix(name, kOld)) {
        // Killed between the two renames of a replacement: the old one is all there is.
        if (!is_there(original) && verify_checkpoint(leftover, /*full=*/false).empty()) {
          rename_durably(leftover, original);
          all.done.push_back(concat("moved ", leftover.string(), " back: the save that was to replace it did not finish"));
        } else {
          remove_folder(leftover);
          all.done.push_back(concat("removed ", leftover.string(), ", whose deletion was interrupted"));
        }
      }
    });
  }
  return all;
}

fs::path make_temporary(const fs::path& checkpoint) {
  // What is no matter of permission may pass, and would leave a folder behind at each try.
  const auto is_for_good = [](const std::error_code& error) {
    return error == std::errc::permission_denied || error == std::errc::operation_not_permitted ||
           error == std::errc::read_only_file_system || error == std::errc::device_or_resource_busy;
  };
  for (int number = 1;; ++number) {
    const fs::path folder = with_suffix(checkpoint, number == 1 ? kTemporary : concat(kTemporary, "-", number));
    std::error_code failed;
    fs::remove_all(folder, failed);
    if (failed && is_for_good(failed) && number < kMostTemporaries) continue;
    if (!failed) fs::create_directories(folder, failed);
    if (failed) refuse("make", folder, failed);
    return folder;
  }
}

void commit_folder(const fs::path& temporary, const fs::path& checkpoint) {
  fs::path old;
  sync_folder(temporary);
  if (fs::exists(checkpoint)) {
    std::error_code swept_later;
    fs::remove_all(with_suffix(checkpoint, kOld), swept_later);
    old = free_name(checkpoint, kOld);
    rename_durably(checkpoint, old);
  }
  try {
    rename_durably(temporary, checkpoint);
  } catch (const IoError&) {
    if (!old.empty() && !fs::exists(checkpoint)) rename_durably(old, checkpoint);
    throw;
  }
  std::error_code swept_later;
  if (!old.empty()) fs::remove_all(old, swept_later);
}

SetAside set_aside(const fs::path& checkpoint, const std::string& reason) {
  const fs::path bad = free_name(checkpoint, kBad);
  try {
    rename_durably(checkpoint, bad);
    if (!fs::is_symlink(bad)) replace_file(bad / "reason.txt", reason + "\n");
  } catch (const IoError& error) {
    if (!is_there(bad)) throw;
    return {bad, error.what()};
  }
  return {bad, ""};
}

int64_t count_set_aside(const fs::path& folder) {
  const std::vector<std::string> names = names_in(folder);
  return std::count_if(names.begin(), names.end(), [](const std::string& name) { return has_suffix(name, kBad); });
}

FolderWork prune_steps(const fs::path& folder, int64_t saved, int64_t keep) {
  FolderWork all;
  std::vector<StepFolder> steps = list_steps(folder);
  std::reverse(steps.begin(), steps.end());
  int64_t kept = 0;
  for (const StepFolder& step : steps) {
    try_with(step.path, all, [&] {
      if (step.step > saved || !verify_checkpoint(step.path, /*full=*/false).empty()) return;
      if (++kept <= keep) return;
      const fs::path old = free_name(step.path, kOld);
      rename_durably(step.path, old);
      remove_folder(old);
      all.done.push_back(concat("deleted ", step.path.string()));
    });
  }
  return all;
}

}  // namespace pimoe
