#include "checkpoint/checkpoint_store.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/progress.h"
#include "base/text.h"
#include "base/thread_error.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/collective_save.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/training_state.h"
#include "checkpoint/trouble.h"
#include "checkpoint/verification.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <initializer_list>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kFewestKept = 2;  // one that is being trusted, one to fall back on
constexpr auto kPauseBeforeSecondLook = std::chrono::seconds(2);

/// Everything but the tensors; tensors are what `reader` fills.
void take_state(const Manifest& manifest, const std::string& where, Snapshot& wanted) {
  const auto check = [&](const auto& keys, const auto& stored, const char* what) {
    for (const auto& [key, value] : keys) {
      if (!stored.contains(key)) throw CheckpointError(concat("checkpoint ", where, ": has no ", what, " '", key, "'"));
    }
  };
  check(wanted.numbers, manifest.numbers, "number");
  check(wanted.counters, manifest.counters, "counter");
  wanted.step = manifest.step;
  wanted.config = manifest.config;
  wanted.numbers = manifest.numbers;
  wanted.counters = manifest.counters;
}

struct Restored {
  std::string cost;                   ///< "read 1.2 MB of tensors out of files of 3.4 MB, of the checkpoint's 6.8 MB"
  std::vector<std::string> left_out;  ///< optional tensors that the checkpoint does not have
};

Restored restore_from(const fs::path& checkpoint, Manifest manifest, Snapshot& wanted) {
  CheckpointReader reader(checkpoint, std::move(manifest));
  std::vector<std::string> left_out = reader.fill(wanted.pieces);
  take_state(reader.manifest(), checkpoint.string(), wanted);
  double all = 0;
  for (const StoredFile& file : reader.manifest().files) all += static_cast<double>(file.bytes);
  return {concat("read ", human_bytes(static_cast<double>(reader.bytes_read())), " of tensors out of files of ",
                 human_bytes(static_cast<double>(reader.bytes_digested())), ", of the checkpoint's ", human_bytes(all)),
          std::move(left_out)};
}

double seconds_since(std::chrono::steady_clock::time_point begun) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

/// What cannot be looked at now says nothing about what it holds.
IoError with_advice(const IoError& error, const fs::path& checkpoint) {
  return {concat(error.what(), ". It may pass, and nothing was set aside. Where it does not, move ", checkpoint.string(),
                 " away: the run then goes on from the checkpoint before it"),
          error.code()};
}

/// @throws CheckpointError naming what is in its place
void make_folder_of_checkpoints(const fs::path& folder) {
  if (fs::is_symlink(folder) && !fs::exists(folder)) {
    throw CheckpointError(concat(folder.string(), " is a link to ", fs::read_symlink(folder).string(), ", which is not there"));
  }
  if (fs::exists(folder) && !fs::is_directory(folder)) {
    throw CheckpointError(concat(folder.string(), " is there, and is no folder, which this run needs for its checkpoints: move it away"));
  }
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) throw CheckpointError(concat("cannot make ", folder.string(), ": ", failed.message()));
}

/// What would fail the first save, some hours on. Another rank's folder may not show on this machine yet: that is no trouble. @returns "" where there is none
std::string why_nothing_can_be_made_in(const fs::path& folder) {
  const PatientOperation on_files;
  const int code = ::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0 ? 0 : errno;
  if (code != EACCES && code != EROFS) return "";
  return concat("no checkpoint can be saved in ", folder.string(), ": ", std::generic_category().message(code),
                ". Make it writable, choose another run.directory, or save none (checkpoint.every_steps=0 checkpoint.at_end=false)");
}

/// Time for a failure of a moment to pass.
void wait_before_second_look() {
  const PatientOperation waiting;
  std::this_thread::sleep_for(kPauseBeforeSecondLook);
}

/// What is wrong with the bytes of this rank's share of the files; every rank takes every `ranks`-th.
/// @param unseen  the first file that is not there for this rank, which then stops
std::string share_trouble(const fs::path& checkpoint, const Manifest& manifest, int rank, int ranks, std::string& unseen) {
  for (size_t i = static_cast<size_t>(rank); i < manifest.files.size(); i += static_cast<size_t>(ranks)) {
    const StoredFile& file = manifest.files[i];
    if (!is_there(checkpoint / file.name)) {
      unseen = file.name;
      return "";
    }
    if (const std::string trouble = shard_trouble(checkpoint, manifest, file, /*digest=*/true); !trouble.empty()) return trouble;
  }
  return "";
}

}  // namespace

void CheckpointConfig::fields(FieldVisitor& visit) {
  visit.integer("every_steps", every_steps, {.at_least = 0, .at_most = kMostSteps}, "steps between checkpoints; 0: only at the end");
  visit.flag("at_end", at_end, "save when the last step is done, due or not");
  visit.integer("keep", keep, {.at_least = kFewestKept, .at_most = kMostSteps}, "newest good checkpoints that stay");
  visit.text("resume", resume, "auto (newest good one of this run, else from scratch) | none | PATH");
  visit.choice("asynchronous", asynchronous,
               {{"auto", BesideTraining::kAuto}, {"true", BesideTraining::kYes}, {"false", BesideTraining::kNo}},
               "training waits only for a copy in host memory, which is then written beside it; auto: true");
  visit.choice("on_error", on_error, {{"continue", OnSaveError::kContinue}, {"stop", OnSaveError::kStop}},
               "after a save that failed: train on and try again, or end the run");
  visit.number("retry_seconds", retry_seconds, {.above = 0, .at_most = 86400},
               "until a save that failed is tried again; doubles while it fails");
  visit.integer("part_bytes", part_bytes, {.at_least = 1 << 20, .at_most = int64_t{1} << 40},
                "elements in one shard file; a save needs host memory for twice that");
}

CheckpointStore::CheckpointStore(fs::path folder, const CheckpointConfig& config, const ProcessMesh& mesh, Logger& log)
    : folder_(std::move(folder)),
      config_(config),
      mesh_(mesh),
      log_(log),
      writers_(mesh.control().split_host(0, mesh.rank(), "checkpoint writers")) {
  std::string trouble = mesh_.control().agree(trouble_of([&] {
    if (mesh_.rank() != 0) return;
    make_folder_of_checkpoints(folder_);
    const FolderWork swept = sweep_leftovers(folder_);
    for (const std::string& line : swept.done) log_.info(line);
    for (const auto& [leftover, why] : swept.troubles) {
      log_.warning(
          concat(why, ". It is what an earlier save left, and stays; this run saves beside it. Remove it, or each start says so again"));
    }
  }));
  const bool will_save = config_.every_steps > 0 || config_.at_end;
  if (trouble.empty() && will_save) trouble = mesh_.control().agree(why_nothing_can_be_made_in(folder_));
  if (!trouble.empty()) throw SaveError(trouble);
}

void CheckpointStore::agree(const std::function<void()>& work) const {
  TroubleKind kind = TroubleKind::kNone;
  const std::string agreed = mesh_.control().agree(trouble_of(work, &kind));
  if (agreed.empty()) return;
  const auto nobody_had = [&](std::initializer_list<TroubleKind> kinds) {
    const bool had = std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
    return mesh_.control().agree(had ? "one of them" : "").empty();
  };
  if (nobody_had({TroubleKind::kDamage, TroubleKind::kOther})) throw IoError(agreed, nobody_had({TroubleKind::kIo}) ? EIO : 0);
  if (nobody_had({TroubleKind::kOther})) throw DamageError(agreed);
  throw CheckpointError(agreed);
}

void CheckpointStore::save(const Snapshot& snapshot) { write(snapshot, mesh_.control()); }

void CheckpointStore::begin(const Snapshot& snapshot) {
  const auto begun = std::chrono::steady_clock::now();
  const auto copy = std::make_shared<const Snapshot>(host_copy_.take(snapshot, mesh_.device()));
  const auto write_copy = [this, copy, held = seconds_since(begun)] {
    const auto started = std::chrono::steady_clock::now();
    progress_step(copy->step);
    const ProgressPhase phase("save");
    const int64_t bytes = write(*copy, *writers_);
    return Report{copy->step, bytes, held, seconds_since(started)};
  };
  try {
    running_ = std::async(std::launch::async, [write_copy] {
      const ProgressOfThread beside_training(ProgressSlot::kWriter);
      return write_copy();
    });
  } catch (const std::system_error& error) {  // the contract of std::async
    log_.warning(concat(message_or_thread_advice(error), ". Training waits for the save of ", step_name(copy->step)));
    std::packaged_task<Report()> here(write_copy);
    running_ = here.get_future();
    here();
  }
}

bool CheckpointStore::is_done() const {
  return running_.valid() && running_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

CheckpointStore::Report CheckpointStore::finish() {
  while (running_.wait_for(std::chrono::milliseconds(100)) != std::future_status::ready) progress_tick();  // the writer is watched itself
  return running_.get();
}

int64_t CheckpointStore::write(const Snapshot& snapshot, const HostCommunicator& ranks) {
  CollectiveSave save(folder_, snapshot, ranks, mesh_.expert_parallel(), config_.part_bytes);
  save.run();
  if (ranks.rank() != 0) return save.total_bytes();
  // The checkpoint is safe by now: what goes wrong from here on is worth a warning, not the run.
  const std::string trouble = trouble_of([&] {
    // A run that skips steps and is asked to stop, again and again, must not push out those from before.
    const auto skipped = snapshot.counters.find(state_counter::kSkippedInARow);
    const bool is_healthy = skipped == snapshot.counters.end() || skipped->second == 0;
    const FolderWork pruned = is_healthy ? prune_steps(folder_, snapshot.step, std::max(config_.keep, kFewestKept)) : FolderWork{};
    for (const std::string& line : pruned.done) log_.debug(concat(line, ": checkpoint.keep is ", config_.keep));
    for (const auto& [path, why] : pruned.troubles) {
      if (resisting_.insert(path).second) log_.warning(concat("an older checkpoint could not be deleted, and stays: ", why));
    }
    const std::optional<int64_t> newest = newest_step(folder_);  // nothing where the folder was moved away since
    if (newest > snapshot.step) {
      log_.warning(concat("saved ", step_name(snapshot.step), " beside a later ", step_name(*newest),
                          ", which checkpoint.resume=auto would take; delete it if training went back on purpose"));
    }
  });
  if (!trouble.empty()) log_.warning(concat(step_name(snapshot.step), " is saved, but older checkpoints could not be deleted: ", trouble));
  return save.total_bytes();
}

std::optional<fs::path> CheckpointStore::newest_good(Manifest* manifest) {
  const HostCommunicator& ranks = mesh_.control();
  std::string names;
  agree([&] {
    if (ranks.rank() != 0) return;
    for (const StepFolder& step : list_steps(folder_)) names = concat(step.path.filename().string(), "\n", names);
  });
  Manifest verified;
  const auto found = [&](const fs::path& checkpoint) {
    if (manifest != nullptr) *manifest = std::move(verified);
    return checkpoint;
  };
  std::string why;
  std::vector<std::pair<fs::path, std::string>> unreadable;  // newest first, each with the reason
  for (const std::string& name : split(ranks.broadcast_text(names, 0), '\n')) {
    if (name.empty()) continue;
    const fs::path checkpoint = folder_ / name;
    const std::optional<std::string> damage = damage_if_readable(checkpoint, verified, why);
    if (!damage) {
      unreadable.emplace_back(checkpoint, why);
      continue;
    }
    if (!damage->empty()) {
      set_aside(checkpoint, *damage);
      continue;
    }
    // The disk gives back a whole checkpoint. What it still does not give back then is lost, and a run that waits for it would wait for ever.
    Manifest older = std::move(verified);
    for (const auto& [newer, reason] : unreadable) {
      wait_before_second_look();
      const std::optional<std::string> second = damage_if_readable(newer, verified, why);
      if (second && second->empty()) return found(newer);
      set_aside(newer, second.value_or(concat("twice it could not be read, as one before it can: ", why)));
    }
    verified = std::move(older);
    return found(checkpoint);
  }
  if (!unreadable.empty()) throw with_advice(IoError(unreadable.front().second, EIO), unreadable.front().first);
  return std::nullopt;
}

std::optional<std::string> CheckpointStore::damage_if_readable(const fs::path& checkpoint, Manifest& manifest, std::string& why) const {
  try {
    return damage_of(checkpoint, manifest);
  } catch (const IoError& error) {  // the contract: the same on every rank
    if (!is_bad_medium(error)) throw with_advice(error, checkpoint);
    why = error.what();
    return std::nullopt;
  }
}

bool CheckpointStore::set_aside(const fs::path& checkpoint, const std::string& damage) {
  const HostCommunicator& ranks = mesh_.control();
  std::string failed;
  if (ranks.rank() == 0) {
    SetAside aside;
    failed = trouble_of([&] { aside = pimoe::set_aside(checkpoint, damage); });
    log_.warning(concat(
        "checkpoint ", checkpoint.string(), " is damaged: ", damage,
        failed.empty() ? concat(". Set aside as ", aside.path.filename().string()) : concat(". It could not be set aside (", failed, ")"),
        aside.trouble.empty() ? "" : concat(", without the reason in it (", aside.trouble, ")"), "; going on from the one before it"));
  }
  return ranks.agree(failed).empty();
}

std::string CheckpointStore::damage_of(const fs::path& checkpoint, Manifest& manifest) const {
  const HostCommunicator& ranks = mesh_.control();
  std::string damage;
  std::string text;
  // Rank 0 alone says that something is missing: to a rank that does not share the folder, everything is.
  agree([&] {
    if (ranks.rank() != 0) return;
    damage = bytes_trouble(checkpoint, /*digests=*/false);
    if (!damage.empty()) return;
    try {
      text = to_json(read_manifest(checkpoint));
    } catch (const DamageError& error) {  // since it was read a moment ago
      damage = error.what();
    }
  });
  damage = ranks.broadcast_text(damage, 0);
  if (!damage.empty()) return damage;
  manifest = parse_manifest(ranks.broadcast_text(text, 0), checkpoint.string());
  std::string unseen;
  agree([&] { damage = share_trouble(checkpoint, manifest, ranks.rank(), ranks.size(), unseen); });
  if (damage = ranks.agree(damage); !damage.empty()) return damage;
  const std::vector<std::string> all_unseen = ranks.all_gather_text(unseen);
  const auto first = std::find_if(all_unseen.begin(), all_unseen.end(), [](const std::string& file) { return !file.empty(); });
  if (first == all_unseen.end()) return "";
  agree([&] {
    if (ranks.rank() == 0 && !is_there(checkpoint / *first)) damage = concat(*first, ": it is gone since the manifest was read");
  });
  if (damage = ranks.broadcast_text(damage, 0); !damage.empty()) return damage;
  throw CheckpointError(ranks.agree(unseen.empty() ? ""
                                                   : concat("does not see ", (checkpoint / unseen).string(),
                                                            ", which rank 0 sees: the folder must be shared by all nodes")));
}

std::vector<std::string> CheckpointStore::restore(const fs::path& checkpoint, Snapshot& wanted) try {
  std::string manifest;
  agree([&] {
    // One rank reads the table of contents for all: a thousand would ask the file system for the same file at once.
    if (mesh_.rank() == 0) manifest = to_json(read_manifest(checkpoint));
  });
  manifest = mesh_.control().broadcast_text(manifest, 0);
  const auto begun = std::chrono::steady_clock::now();
  Restored restored;
  agree([&] { restored = restore_from(checkpoint, parse_manifest(manifest, (checkpoint / "manifest.json").string()), wanted); });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  log_.info(concat("rank ", mesh_.rank(), " ", restored.cost, ", in ", fixed(seconds, 2), " s"));
  if (!restored.left_out.empty()) {
    log_.info(concat("rank ", mesh_.rank(), ": the checkpoint does not have ", join(restored.left_out, ", "), ": left as they begin"));
  }
  return restored.left_out;
} catch (const IoError& error) {
  throw with_advice(error, checkpoint);
}

std::vector<std::string> restore_snapshot(const fs::path& checkpoint, Snapshot& wanted) {
  return restore_from(checkpoint, read_manifest(checkpoint), wanted).left_out;
}

void require_folder(const fs::path& path) {
  const char* const rule = ": a checkpoint is a step-* folder, or a run folder";
  if (!is_there(path)) throw CheckpointError(concat("there is no ", path.string(), rule));
  if (!fs::is_directory(path)) throw CheckpointError(concat(path.string(), " is no folder", rule));
}

fs::path find_checkpoint(const fs::path& path, bool digests) {
  require_folder(path);
  if (is_there(path / "manifest.json")) return path;
  if (is_there(path / "config.json")) {
    throw CheckpointError(concat(path.string(), " is a Hugging Face model and no checkpoint: model.initial_weights=", path.string(),
                                 " begins a run with it, and `pimoe import` makes a run of it"));
  }
  if (step_of(path.filename().string())) throw CheckpointError(concat("checkpoint ", path.string(), ": has no manifest.json"));
  std::string last_trouble;
  for (const fs::path& folder : {path / "checkpoints", path}) {
    std::vector<StepFolder> steps = list_steps(folder);
    for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
      const std::string trouble = bytes_trouble(step->path, digests);
      if (trouble.empty()) return step->path;
      last_trouble = concat("; ", step_name(step->step), ": ", trouble);
    }
  }
  throw CheckpointError(concat("there is no good checkpoint in ", path.string(), last_trouble));
}

}  // namespace pimoe
