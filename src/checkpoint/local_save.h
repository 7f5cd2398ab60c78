#pragma once

#include "checkpoint/manifest.h"
#include "checkpoint/shard_file.h"

#include <filesystem>
#include <functional>
#include <string>

namespace pimoe {

/// Every checkpoint is written into a folder beside its place and renamed, so that a kill at any moment leaves it whole or not there:
///
///     step-N.tmp  <-  files, fsync  <-  manifest.json, fsync  ->  fsync of the folder, rename to step-N, fsync of the parent
///
/// A save by one process is all of that (write_checkpoint); a save by all ranks (collective_save.h) agrees between the parts.

/// Makes an empty folder; what a killed save left there goes. @throws IoError
void make_empty_folder(const std::filesystem::path& folder);

/// The end of a save: what is in `temporary` becomes the checkpoint; one that is there already is replaced.
/// @param temporary  of make_temporary (step_folders.h)  @param manifest  of all its files @throws IoError
void commit_checkpoint(const std::filesystem::path& temporary, const std::filesystem::path& checkpoint, const Manifest& manifest);

/// Writes a checkpoint from this process alone, or leaves nothing of it. @param checkpoint  must not exist
/// @param manifest     all but the files and their pieces
/// @param write_files  adds every file; it may throw
/// @param written      told of each file that is on the disk
/// @throws SaveError saying why: `write_files` threw, the pieces do not cover their tensors, a file could not be written
void write_checkpoint(const std::filesystem::path& checkpoint, Manifest manifest, const std::function<void(ShardWriter&)>& write_files,
                      std::function<void(const StoredFile&)> written = {});

}  // namespace pimoe
