#pragma once

#include "base/box.h"
#include "base/hdf5_file.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace pimoe {

/// One dataset of one shard.
struct StoredPiece {
  std::string file;     ///< name inside the checkpoint folder
  std::string dataset;  ///< "master/layers.0.norm"
  std::string kind;
  Piece piece;
  ElementType type = ElementType::kFloat32;
  std::string sha256;  ///< of the elements' bytes

  /// "master/layers.0.norm": the logical tensor that this is a piece of.
  std::string tensor() const { return kind + "/" + piece.name; }
};

struct StoredFile {
  std::string name;
  uint64_t bytes = 0;
  std::string sha256;
};

/// What manifest.json says: the table of contents that makes a folder a checkpoint.
struct Manifest {
  int64_t format_version = 1;
  int64_t step = 0;
  int64_t ranks = 0;
  int64_t expert_parallel = 0;
  std::string config;
  std::map<std::string, double> numbers;
  std::map<std::string, int64_t> counters;
  std::vector<StoredFile> files;
  std::vector<StoredPiece> pieces;
};

/// Doubles are kept bit for bit (hexadecimal text; a NaN stays a NaN). The last key is a SHA-256 of everything before it.
/// @throws CheckpointError if a text is not UTF-8.
std::string to_json(const Manifest& manifest);
/// Checks the digest, then every field: types, sizes, plain file names, pieces inside their boxes and files.
/// @throws CheckpointError naming what is missing, malformed, out of range or inconsistent.
Manifest parse_manifest(const std::string& json, const std::string& name_for_messages);
/// Reads folder/manifest.json.
/// @throws CheckpointError if it is missing or damaged, or of another step than the folder's name says; IoError if it cannot be looked at (permission).
Manifest read_manifest(const std::filesystem::path& folder);

/// Pieces alone, for ranks to tell each other what they hold: `file`, `dataset` and `sha256` do not travel.
std::string pieces_to_json(const std::vector<StoredPiece>& pieces);
std::vector<StoredPiece> parse_pieces(const std::string& json);

}  // namespace pimoe
