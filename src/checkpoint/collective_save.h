#pragma once

#include "checkpoint/manifest.h"
#include "checkpoint/snapshot.h"
#include "parallel/communicator.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace pimoe {

/// One save, from the plan to the renamed folder. Every step ends in an agreement, so that all ranks go on or all ranks stop.
///
/// State that is in no memory yet has values of the device `meta`, which have a shape and a dtype alone: `fill` then makes those of one file at a time.
///
/// Waits patiently (patient_barrier): it may run in a thread beside training.
///
///     1. plan     all ranks tell their pieces; copies get one writer, gaps stop the save
///     2. prepare  rank 0 makes step-N.tmp, checks the free space and writes a token; all ranks must see the token
///     3. write    each rank its files; a rank that fails takes the token away, which stops the others at their next file
///     4. commit   rank 0 writes the manifest and renames
class CollectiveSave {
 public:
  /// Gives pieces of one file their values; what it throws ends the save.
  using Fill = std::function<void(std::vector<StatePiece>& pieces)>;

  /// @param snapshot, ranks  must outlive it; nobody else uses `ranks` meanwhile  @param fill  null: all values are there
  CollectiveSave(std::filesystem::path folder, const Snapshot& snapshot, const HostCommunicator& ranks, int64_t expert_parallel,
                 int64_t part_bytes, Fill fill = nullptr);

  /// Collective. @throws SaveError, the same on every rank, once step-N.tmp is gone again.
  void run();

  int64_t total_bytes() const { return total_bytes_; }    ///< of all ranks' elements
  int64_t needed_bytes() const { return needed_bytes_; }  ///< that all files were foretold to take on the disk

 private:
  void plan();
  void prepare();
  void write();
  void commit();
  /// Throws on every rank if one has trouble.
  void agree(const std::string& trouble) const;
  /// Somebody may have removed it to have room. Its parent, a run folder that is gone, is not made again: nobody holds the lock of a new one.
  void remake_own_folder() const;
  void check_free_space() const;
  /// What rank 0 says where its folder is not there any more: who else is told that something in it cannot be found. Collective.
  std::string loss_of_folder() const;
  void wait_for_token(const std::string& token) const;

  std::filesystem::path folder_;
  std::filesystem::path temporary_;  ///< step-N.tmp, or a number behind it; empty before prepare()
  const Snapshot& snapshot_;
  const HostCommunicator& ranks_;
  int64_t part_bytes_;
  Fill fill_;
  std::vector<std::vector<StatePiece>> parts_;  ///< the pieces that this rank writes, file by file
  int64_t total_bytes_ = 0;
  int64_t needed_bytes_ = 0;
  bool planned_ = false;
  bool has_token_ = false;  ///< rank 0 has written it, and no rank takes it away yet
  Manifest manifest_;       ///< this rank's part; after write(), on rank 0, the whole
};

}  // namespace pimoe
