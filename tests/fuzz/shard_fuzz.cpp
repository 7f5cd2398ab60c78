/// One HDF5 file of a checkpoint, behind the digest check: its manifest is made to fit whatever the file says, as a forger's would.

#include "fuzz/fuzz_target.h"

#include "base/digest.h"
#include "base/errors.h"
#include "checkpoint/damage.h"
#include "checkpoint/shard_file.h"
#include "checkpoint/verification.h"

#include <ATen/core/Tensor.h>

#include <algorithm>

namespace {

constexpr const char* kFileName = "rank-0000-of-0001-part-000.h5";

std::vector<int64_t> list_or(const pimoe::Hdf5Attributes& attributes, const char* name, std::vector<int64_t> otherwise) {
  const auto found = attributes.find(name);
  return found == attributes.end() ? std::move(otherwise) : found->second;
}

/// What parse_manifest would let through for a dataset.
std::vector<pimoe::StoredPiece> pieces_of(const pimoe::Hdf5Reader& reader, uint64_t file_bytes) {
  std::vector<pimoe::StoredPiece> pieces;
  for (const std::string& name : reader.names()) {
    const auto dataset = reader.describe(name);
    pimoe::require(dataset.count >= 0, "a dataset has no negative number of elements");
    if (static_cast<uint64_t>(dataset.count) > file_bytes / static_cast<uint64_t>(pimoe::element_bytes(dataset.type))) continue;
    pimoe::StoredPiece stored;
    stored.file = kFileName;
    stored.dataset = name;
    stored.kind = name.substr(0, name.find('/'));
    stored.piece.name = name.substr(name.find('/') + 1);
    stored.piece.box = {list_or(dataset.attributes, "global_shape", {dataset.count}), list_or(dataset.attributes, "box_offset", {0}),
                        list_or(dataset.attributes, "box_shape", {dataset.count})};
    stored.piece.begin = 0;
    stored.piece.end = dataset.count;
    stored.type = dataset.type;
    pieces.push_back(std::move(stored));
  }
  return pieces;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  using namespace pimoe;
  static const ScratchFolder folder;
  folder.put(kFileName, bytes, count);
  const StoredFile file{kFileName, count, sha256(bytes, count)};
  Manifest manifest;
  manifest.files = {file};
  try {
    const Hdf5Reader reader(reinterpret_cast<const std::byte*>(bytes), count, kFileName);
    manifest.pieces = pieces_of(reader, count);
    (void)reader.text("format");
  } catch (const Error& error) {
    require(typeid(error) == typeid(Error), "Hdf5Reader throws Error alone", error.what());
  }
  try {
    const ShardFile shard(folder.path(), file);
    for (const StoredPiece& stored : manifest.pieces) {
      const int64_t numel = stored.piece.numel();
      const at::Tensor whole = shard.read(stored, 0, numel);
      if (numel > 2) (void)shard.read(stored, numel / 2, numel / 3);
    }
  } catch (const CheckpointError&) {
  }
  (void)datasets_trouble(folder.path(), manifest, kFileName);
  (void)place_of_damage(folder.path(), manifest, file);
  return 0;
}
