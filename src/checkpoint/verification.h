#pragma once

/// Whether a checkpoint is whole; and the parts of that question, for those who share them out over ranks or need them one file at a time.

#include "base/errors.h"
#include "checkpoint/manifest.h"

#include <filesystem>
#include <optional>
#include <string>

namespace pimoe {

/// A file of a checkpoint, or its manifest, is not what was written: of all that a CheckpointError may be (a model that it does not fit, a tensor that
/// it lacks) the one that another checkpoint of the run may not have.
class DamageError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
};

/// What is wrong with a checkpoint folder: "" if nothing. Checks the manifest, that all files are there with the right sizes and
/// digests, that the pieces cover every logical tensor, and that each dataset is what the manifest says. Files that the manifest does not
/// list are ignored: nothing reads them.
/// @param full  false: manifest, sizes and coverage only; no digests, no dataset is read
/// @throws IoError if the folder cannot be looked at (permission): that says nothing about what it holds.
std::string verify_checkpoint(const std::filesystem::path& folder, bool full);

/// @returns whether the error says that the data is gone (no such file, something else in its place), and not that we may not look, or cannot now: an
///          I/O error may pass, as a network file system's does.
bool is_damage(const IoError& error);

/// @returns whether the error is what a disk says of a block that it cannot read, or a file system of its own damaged structures. Of a network file
///          system it may pass.
bool is_bad_medium(const IoError& error);

/// @returns "" or what is wrong with one file: missing, another size or, with `digest`, other bytes.
/// @throws IoError if it cannot be looked at
std::string file_trouble(const std::filesystem::path& folder, const StoredFile& file, bool digest);

/// As file_trouble, with what it means for the tensors: where the bytes are damaged, or what a file that cannot be read holds.
std::string shard_trouble(const std::filesystem::path& folder, const Manifest& manifest, const StoredFile& file, bool digest);

/// @returns "" or what is wrong with the manifest, the files or the coverage; datasets are not opened. @throws IoError as file_trouble
std::string bytes_trouble(const std::filesystem::path& folder, bool digests);

/// A checkpoint of a run, for who lists them.
struct Inspection {
  Manifest manifest;    ///< where it is good
  std::string trouble;  ///< as bytes_trouble, or why it cannot be looked at
};
/// @returns nothing where the folder is gone: a run that trains deletes its oldest checkpoints
std::optional<Inspection> inspect_checkpoint(const std::filesystem::path& folder, bool digests);

/// @returns "" or the first dataset of a file, whose own digest is right, that is not what the manifest says, or is not listed.
std::string datasets_trouble(const std::filesystem::path& folder, const Manifest& manifest, const std::string& file);

}  // namespace pimoe
