#include "checkpoint/verification.h"

#include "base/digest.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "checkpoint/damage.h"
#include "checkpoint/piece_check.h"
#include "checkpoint/shard_file.h"

#include <algorithm>
#include <cerrno>
#include <initializer_list>

namespace pimoe {
namespace {

constexpr size_t kMostTensorsInMessage = 8;

bool is_one_of(const IoError& error, std::initializer_list<int> codes) {
  return std::find(codes.begin(), codes.end(), error.code()) != codes.end();
}

std::string dataset_trouble(const Hdf5Reader& reader, const StoredPiece& stored) {
  const auto found = reader.describe(stored.dataset);
  if (found.type != stored.type || found.count != stored.piece.numel()) {
    return concat("has ", found.count, " elements of ", element_name(found.type), ", the manifest says ", stored.piece.numel(), " of ",
                  element_name(stored.type));
  }
  for (const auto& [name, values] : attributes_of(stored.piece)) {
    const auto attribute = found.attributes.find(name);
    if (attribute == found.attributes.end() || attribute->second != values) {
      return concat("its attribute ", name, " is not what the manifest says (", shape_text(values), ")");
    }
  }
  std::vector<std::byte> elements(static_cast<size_t>(found.count * element_bytes(found.type)));
  reader.read(stored.dataset, 0, found.count, elements.data());
  count_work(static_cast<int64_t>(elements.size()));
  if (sha256(elements.data(), elements.size()) != stored.sha256) return "its elements do not have the digest in the manifest";
  return "";
}

/// @returns the logical tensors in a file, for messages: "master/a, exp_avg/a and 4 more".
std::string tensors_in(const Manifest& manifest, const std::string& file) {
  std::vector<std::string> tensors;
  for (const StoredPiece& stored : manifest.pieces) {
    if (stored.file == file) tensors.push_back(stored.tensor());
  }
  std::sort(tensors.begin(), tensors.end());
  tensors.erase(std::unique(tensors.begin(), tensors.end()), tensors.end());
  const size_t more = tensors.size() - std::min(tensors.size(), kMostTensorsInMessage);
  tensors.resize(tensors.size() - more);
  return join(tensors, ", ") + (more == 0 ? "" : concat(" and ", more, " more"));
}

}  // namespace

bool is_damage(const IoError& error) { return is_one_of(error, {ENOENT, ENOTDIR, EISDIR, ENXIO, ELOOP}); }

// ENODATA, EREMOTEIO and EILSEQ are the block layer's words for a medium that fails, EUCLEAN and EBADMSG those of ext4, XFS and btrfs.
bool is_bad_medium(const IoError& error) { return is_one_of(error, {EIO, ENODATA, EREMOTEIO, EILSEQ, EUCLEAN, EBADMSG}); }

std::string file_trouble(const std::filesystem::path& folder, const StoredFile& file, bool digest) try {
  const std::filesystem::path path = folder / file.name;
  std::error_code missing;
  const bool regular = std::filesystem::is_regular_file(path, missing);
  if (missing) throw IoError(concat("cannot read ", path.string(), ": ", missing.message()), missing.value());
  if (!regular) return concat(file.name, " is no regular file");
  const uint64_t bytes = std::filesystem::file_size(path, missing);
  if (missing) throw IoError(concat("cannot read ", path.string(), ": ", missing.message()), missing.value());
  if (bytes != file.bytes) {
    return concat(file.name, " has ", grouped(static_cast<int64_t>(bytes)), " bytes, the manifest says ",
                  grouped(static_cast<int64_t>(file.bytes)));
  }
  if (!digest) return "";
  // Read, not mapped: what the medium cannot give is an error here, where a map would end the process.
  const std::vector<std::byte> content = read_regular_bytes(path, file.bytes);
  const bool same = sha256(content.data(), content.size()) == file.sha256;
  count_work(static_cast<int64_t>(content.size()));
  return same ? "" : concat(file.name, " is damaged: its bytes do not have the digest in the manifest");
} catch (const IoError& error) {
  if (!is_damage(error)) throw;
  return error.what();
}

std::string shard_trouble(const std::filesystem::path& folder, const Manifest& manifest, const StoredFile& file, bool digest) {
  const std::string trouble = file_trouble(folder, file, digest);
  if (trouble.empty()) return "";
  const std::string place = digest ? place_of_damage(folder, manifest, file) : "";
  return place.empty() ? concat(trouble, " (it holds ", tensors_in(manifest, file.name), ")") : concat(trouble, ": ", place);
}

std::string datasets_trouble(const std::filesystem::path& folder, const Manifest& manifest, const std::string& file) {
  const MappedFile map(folder / file);
  std::string at = file;
  try {
    const Hdf5Reader reader(map.data(), map.size(), file);
    std::vector<std::string> unlisted = reader.names();
    for (const StoredPiece& stored : manifest.pieces) {
      if (stored.file != file) continue;
      at = concat(file, ": ", stored.tensor());
      std::erase(unlisted, stored.dataset);
      if (const std::string trouble = dataset_trouble(reader, stored); !trouble.empty()) return concat(at, ": ", trouble);
    }
    return unlisted.empty() ? "" : concat(file, ": holds ", unlisted.front(), ", which the manifest does not list");
  } catch (const Error& error) {
    return concat(at, ": ", error.what());
  }
}

std::string bytes_trouble(const std::filesystem::path& folder, bool digests) try {
  const Manifest manifest = read_manifest(folder);
  for (const StoredFile& file : manifest.files) {
    if (const std::string trouble = shard_trouble(folder, manifest, file, digests); !trouble.empty()) return trouble;
  }
  return coverage_trouble(manifest.pieces);
} catch (const CheckpointError& error) {
  return error.what();
}

std::optional<Inspection> inspect_checkpoint(const std::filesystem::path& folder, bool digests) {
  Inspection found;
  try {
    found.trouble = bytes_trouble(folder, digests);
    if (found.trouble.empty()) found.manifest = read_manifest(folder);
  } catch (const Error& error) {  // the contract: what is wrong with one checkpoint keeps nobody from the others
    found.trouble = error.what();
  }
  if (!found.trouble.empty() && !is_there(folder)) return std::nullopt;
  return found;
}

std::string verify_checkpoint(const std::filesystem::path& folder, bool full) {
  const std::string trouble = bytes_trouble(folder, full);
  if (!trouble.empty() || !full) return trouble;
  const Manifest manifest = read_manifest(folder);
  for (const StoredFile& file : manifest.files) {
    if (const std::string wrong = datasets_trouble(folder, manifest, file.name); !wrong.empty()) return wrong;
  }
  return "";
}

}  // namespace pimoe
