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

std::vector<std::string> sweep_leftovers(const fs::path& folder) {
  std::vector<std::string> done;
  for (const std::string& name : names_in(folder)) {
    const fs::path leftover = folder / name;
    const fs::path original = folder / leftover.stem();
    if (!step_of(leftover.stem().string())) continue;
    if (leftover.extension() == ".tmp") {
      remove_folder(leftover);
      done.push_back(concat("removed ", leftover.string(), ", which a save left unfinished"));
    } else if (leftover.extension() == ".old") {
      // Killed between the two renames of a replacement: the old one is all there is.
      if (!fs::exists(original) && verify_checkpoint(leftover, /*full=*/false).empty()) {
        rename_durably(leftover, original);
        done.push_back(concat("moved ", leftover.string(), " back: the save that was to replace it did not finish"));
      } else {
        remove_folder(leftover);
        done.push_back(concat("removed ", leftover.string(), ", whose deletion was interrupted"));
      }
    }
  }
  return done;
}

void commit_folder(const fs::path& temporary, const fs::path& checkpoint) {
  const fs::path old = with_suffix(checkpoint, ".old");
  sync_folder(temporary);
  const bool replaces = fs::exists(checkpoint);
  if (replaces) {
    if (fs::exists(old)) remove_folder(old);
    rename_durably(checkpoint, old);
  }
  try {
    rename_durably(temporary, checkpoint);
  } catch (const IoError&) {
    if (replaces && !fs::exists(checkpoint)) rename_durably(old, checkpoint);
    throw;
  }
  std::error_code swept_later;
  if (replaces) fs::remove_all(old, swept_later);
}

SetAside set_aside(const fs::path& checkpoint, const std::string& reason) {
  fs::path bad = with_suffix(checkpoint, kBad);
  for (int number = 2; fs::exists(bad); ++number) bad = with_suffix(checkpoint, concat(kBad, "-", number));
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
  return std::count_if(names.begin(), names.end(), [](const std::string& name) {
    const std::string suffix = fs::path(name).extension().string();
    return step_of(fs::path(name).stem().string()) && (suffix == kBad || suffix.starts_with(concat(kBad, "-")));
  });
}

std::vector<fs::path> prune_steps(const fs::path& folder, int64_t saved, int64_t keep) {
  std::vector<fs::path> deleted;
  std::vector<StepFolder> steps = list_steps(folder);
  std::reverse(steps.begin(), steps.end());
  int64_t kept = 0;
  for (const StepFolder& step : steps) {
    if (step.step > saved || !verify_checkpoint(step.path, /*full=*/false).empty()) continue;
    if (++kept <= keep) continue;
    const fs::path old = with_suffix(step.path, ".old");
    rename_durably(step.path, old);
    remove_folder(old);
    deleted.push_back(step.path);
  }
  return deleted;
}

}  // namespace pimoe
