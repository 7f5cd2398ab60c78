#pragma once

#include "base/config_fields.h"
#include "base/log.h"
#include "checkpoint/host_copy.h"
#include "checkpoint/manifest.h"
#include "checkpoint/snapshot.h"
#include "parallel/process_mesh.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace pimoe {

/// Whether a save is written beside training; `auto` is `true`.
enum class BesideTraining { kAuto, kYes, kNo };

/// What a run does after a save that failed.
enum class OnSaveError { kContinue, kStop };

/// `checkpoint:` in the configuration.
struct CheckpointConfig {
  int64_t every_steps = 100;    ///< 0: only at the end
  bool at_end = true;           ///< save when the last step is done, due or not; false for benchmarks
  int64_t keep = 2;             ///< newest good checkpoints that stay; at least 2
  std::string resume = "auto";  ///< auto (the newest good one of this run, else from scratch) | none | PATH (where a new run begins)
  BesideTraining asynchronous = BesideTraining::kAuto;  ///< training waits for a copy in host memory alone; a thread writes it
  OnSaveError on_error = OnSaveError::kContinue;
  double retry_seconds = 30.0;            ///< after a save that failed, doubled each time it fails again, to at most 32 times
  int64_t part_bytes = int64_t{1} << 30;  ///< elements in one shard file; a save needs host memory for twice that on each rank

  void fields(FieldVisitor& visit);
  bool saves_beside_training() const { return asynchronous != BesideTraining::kNo; }
};

/// The checkpoints of one run: folder/step-00000100/{manifest.json, rank-0000-of-0002-part-000.h5, ...}; docs/checkpoint.md draws them.
///
/// Saving is atomic: every rank writes its shards into step-N.tmp (image in memory, own write loop, fsync), all ranks agree that they
/// could, rank 0 writes the manifest with size and SHA-256 of every file and piece, fsync, and the folder is renamed. A folder without
/// suffix whose manifest verifies is a good checkpoint; nothing else is trusted, no marker file exists.
///
/// A save may run beside training (begin, is_done, finish): training waits only until its state is copied, and one thread on each rank
/// writes the copies, agreeing over a communicator of its own.
///
/// REQUIRES: one job at a time uses a folder, and every rank sees it.
class CheckpointStore {
 public:
  /// Makes the folder; leftovers of killed saves (step-*.tmp, step-*.old) are removed by rank 0, and one that cannot be is named in a warning. Collective.
  /// @throws SaveError, the same on every rank.
  CheckpointStore(std::filesystem::path folder, const CheckpointConfig& config, const ProcessMesh& mesh, Logger& log);

  /// Writes a checkpoint of `snapshot`. Collective; every rank returns or every rank throws the same error.
  /// A checkpoint of the same step is replaced; then the oldest beyond `keep` are deleted, never one of a later step.
  /// @throws SaveError naming rank, file and reason; the checkpoints before it stay good.
  /// @cost host memory of one part twice; about ten small collectives on the control group.
  void save(const Snapshot& snapshot);

  /// What a save cost.
  struct Report {
    int64_t step = 0;
    int64_t bytes = 0;           ///< of all ranks' elements
    double copy_seconds = 0.0;   ///< that training waited for, of this rank
    double write_seconds = 0.0;  ///< until the checkpoint was good
  };

  /// Copies `snapshot` and starts to write it. Every rank calls it at the same step. REQUIRES none that is not finished.
  /// @cost host memory for the rank's pieces, kept; no collective
  void begin(const Snapshot& snapshot);
  /// Makes the memory for the copy that `begin` takes, beside training. @param snapshot  with the pieces that will be saved
  void prepare(const Snapshot& snapshot) { host_copy_.prepare(snapshot, mesh_.device()); }
  /// @returns whether a save was begun and not finished, done or not.
  bool is_running() const { return running_.valid(); }
  /// @returns whether this rank's part of the save is over; another rank's may not be.
  bool is_done() const;
  /// Waits until the save is over. @throws as save(): the same on every rank.
  Report finish();

  /// @returns the newest checkpoint whose manifest and files verify (sizes and digests), the same on every rank; nothing if there is none.
  ///          Damaged ones are set aside as step-N.bad by rank 0, and said; so is one that the medium does not give back, twice, while an older one can
  ///          be read from end to end. Collective.
  /// @param manifest  its table of contents, as it was verified
  /// @throws IoError, CheckpointError if one can be neither trusted nor called damaged: permission denied, an I/O error where no older one can be read
  ///         either, or a rank does not see the folder. IoError::code is EIO where it is the medium on every rank that had trouble, else 0.
  /// @cost reads the checkpoint once, each file on one of the ranks.
  std::optional<std::filesystem::path> newest_good(Manifest* manifest = nullptr);

  /// Renames a checkpoint that was found damaged to step-N.bad, with the reason in it, and says so. Collective; rank 0's `damage` counts.
  /// @returns whether it is out of the way, the same on every rank
  bool set_aside(const std::filesystem::path& checkpoint, const std::string& damage);

  /// Fills the tensors of `wanted.pieces` and its numbers, counters, step and config from the checkpoint, whatever layout wrote it.
  /// Floating-point tensors are converted to the wanted dtype; others must have the stored one. Numbers and counters that `wanted` has on
  /// entry must be in the checkpoint; on return it has all of the checkpoint's: an optional one is not put in, but looked for afterwards. Only
  /// files with wanted elements are read. Collective.
  /// @returns the tensors of this rank's optional pieces that the checkpoint does not have, which stay as they are; said in the log
  /// @throws DamageError (verification.h) naming the file that is missing or damaged; CheckpointError naming the tensor that is missing, has another
  ///         shape or is not fully covered; IoError where a file cannot be read now: the same on every rank. Pieces may be filled in part then.
  std::vector<std::string> restore(const std::filesystem::path& checkpoint, Snapshot& wanted);

 private:
  /// Writes a checkpoint and deletes the oldest. @returns its bytes
  int64_t write(const Snapshot& snapshot, const HostCommunicator& ranks);
  /// What is wrong with a checkpoint, "" if nothing; the same on every rank. Files are shared out over the ranks.
  std::string damage_of(const std::filesystem::path& checkpoint, Manifest& manifest) const;
  /// As damage_of; nothing where the medium does not give it back, for which `why` has the reason.
  std::optional<std::string> damage_if_readable(const std::filesystem::path& checkpoint, Manifest& manifest, std::string& why) const;
  /// Throws on every rank if one's work throws: IoError where no rank had another trouble, DamageError where none had one but these two, else
  /// CheckpointError.
  void agree(const std::function<void()>& work) const;

  std::filesystem::path folder_;
  CheckpointConfig config_;
  const ProcessMesh& mesh_;
  Logger& log_;
  std::unique_ptr<HostCommunicator> writers_;  ///< for the threads that write
  HostCopy host_copy_;
  std::set<std::filesystem::path> resisting_;  ///< what could not be deleted, and was said: once is enough. Of who writes on rank 0
  std::future<Report> running_;                ///< last: it is waited for before what it uses goes
};

/// Restoring without a mesh, for tools: as CheckpointStore::restore on one process, without a word.
std::vector<std::string> restore_snapshot(const std::filesystem::path& checkpoint, Snapshot& wanted);

/// @throws CheckpointError if `path` is no folder, IoError if one may not look
void require_folder(const std::filesystem::path& path);

/// PATH of a checkpoint on a command line: a step-* folder, or a run folder (its newest good checkpoint).
/// @param digests  false: a run's checkpoint is good if its files have the sizes that its manifest says
/// @throws CheckpointError if there is none, IoError if one may not look
/// @cost of a run folder with digests: reads its newest checkpoint
std::filesystem::path find_checkpoint(const std::filesystem::path& path, bool digests = true);

}  // namespace pimoe
