#include "serve/reload_watch.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/manifest.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/verification.h"
#include "parallel/quiet_thread.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

namespace pimoe {
namespace {

template <class Result>
bool is_ready(const std::future<Result>& future) {
  return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

/// @returns "" or the first file whose bytes are not those that were written; stops between files once `is_leaving`
std::string digest_trouble(const std::filesystem::path& folder, const std::atomic<bool>& is_leaving) {
  const Manifest manifest = read_manifest(folder);
  for (const StoredFile& file : manifest.files) {
    if (is_leaving) return "the server is leaving";
    if (const std::string trouble = shard_trouble(folder, manifest, file, /*digest=*/true); !trouble.empty()) return trouble;
  }
  return "";
}

}  // namespace

ReloadWatch::~ReloadWatch() {
  is_leaving_ = true;
  if (finder_.joinable()) finder_.join();
}

ReloadWatch::Found ReloadWatch::find(int64_t served_step, const std::set<std::string>& refused) const {
  Found found;
  try {
    require_folder(checkpoint_);
    if (is_there(checkpoint_ / "manifest.json")) return found;
    for (const std::filesystem::path& folder : {checkpoint_ / "checkpoints", checkpoint_}) {
      std::vector<StepFolder> steps = list_steps(folder);
      for (auto step = steps.rbegin(); step != steps.rend() && step->step > served_step; ++step) {
        if (refused.contains(step->path.string())) continue;
        std::string trouble = bytes_trouble(step->path, /*digests=*/false);  // of one that is still being copied too
        if (trouble.empty()) {
          trouble = digest_trouble(step->path, is_leaving_);
          if (!trouble.empty()) found.damaged.insert(step->path.string());
        }
        if (trouble.empty()) {
          found.newer = step->path;
          return found;
        }
        const bool is_gone = !is_there(step->path);  // a run that trains deletes its oldest
        if (found.trouble.empty() && !is_gone) found.trouble = concat(step->path.string(), ": ", trouble);
      }
    }
  } catch (const std::exception& error) {  // the contract: what is served goes on
    if (found.trouble.empty()) found.trouble = error.what();
  }
  return found;
}

void ReloadWatch::look(bool was_asked) {
  if (!found_.valid()) return begin_look(was_asked);
  next_ = was_asked || next_.value_or(false);
}

void ReloadWatch::begin_look(bool was_asked) {
  was_asked_ = was_asked;
  if (was_asked) refused_.clear();
  int64_t step = engine_.status().step;
  for (const Reload& reload : reloads_) step = std::max(step, step_of(reload.checkpoint.filename().string()).value_or(0));
  std::packaged_task<Found()> task([this, step, refused = refused_] { return find(step, refused); });
  found_ = task.get_future();
  finder_ = quiet_thread(std::move(task));
}

void ReloadWatch::poll() {
  if (found_.valid() && is_ready(found_)) end_look();
  for (Reload& reload : reloads_) {
    if (is_ready(reload.read)) end_reload(reload);
  }
  std::erase_if(reloads_, [](const Reload& reload) { return !reload.read.valid(); });
  if (next_ && !found_.valid()) begin_look(*std::exchange(next_, std::nullopt));
}

void ReloadWatch::end_look() {
  finder_.join();
  const Found found = found_.get();
  refused_.insert(found.damaged.begin(), found.damaged.end());
  if (!found.trouble.empty()) warn(found.trouble, was_asked_);
  if (!found.newer) {
    if (was_asked_ && found.trouble.empty()) log_.info(concat("no newer checkpoint than ", engine_.status().checkpoint));
    return;
  }
  try {
    const int64_t before = engine_.status().step;
    reloads_.push_back({*found.newer, before, engine_.begin_reload(*found.newer)});
  } catch (const Error& error) {  // the contract, as above
    warn(error.what(), /*again=*/true);
  }
}

void ReloadWatch::end_reload(Reload& reload) {
  try {
    std::exchange(reload.read, {}).get();
    log_.info(
        concat("serving ", reload.checkpoint.string(), ", step ", engine_.status().step, ", from now on; before: step ", reload.before));
  } catch (const Engine::Replaced&) {      // that one says how it went
  } catch (const std::exception& error) {  // the contract, as above
    refused_.insert(reload.checkpoint.string());
    warn(error.what(), /*again=*/true);
  }
}

void ReloadWatch::warn(const std::string& trouble, bool again) {
  if (!again && trouble == warned_) return;
  warned_ = trouble;
  log_.warning(concat("no reload, step ", engine_.status().step, " is served as before: ", trouble));
}

}  // namespace pimoe
