#include "checkpoint/save_size.h"

#include "base/hdf5_size.h"
#include "checkpoint/shard_file.h"

#include <iterator>
#include <string>
#include <utility>

namespace pimoe {
namespace {

constexpr int64_t kBlockBytes = 4096;  // of most file systems
constexpr size_t kDigestLength = 64;

int64_t in_blocks(int64_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }

int64_t manifest_bytes(const Manifest& manifest) { return static_cast<int64_t>(to_json(manifest).size()); }

}  // namespace

int64_t foretold_bytes(const std::vector<std::vector<StatePiece>>& parts, int64_t rank, const Manifest& common) {
  const std::string digest(kDigestLength, '0');
  Manifest whole = common;
  int64_t bytes = 0;
  for (size_t part = 0; part < parts.size(); ++part) {
    const std::string name = shard_name(rank, common.ranks, part);
    std::vector<StoredPiece> rows = rows_of(name, parts[part]);
    Hdf5Size file;
    for (StoredPiece& row : rows) {
      file.add(row.dataset, row.type, row.piece.numel(), attributes_of(row.piece));
      row.sha256 = digest;
    }
    bytes += in_blocks(file.bytes());
    whole.files.push_back({name, static_cast<uint64_t>(file.bytes()), digest});
    std::move(rows.begin(), rows.end(), std::back_inserter(whole.pieces));
  }
  if (rank > 0) return bytes + manifest_bytes(whole) - manifest_bytes(common);
  return bytes + in_blocks(manifest_bytes(whole)) + 2 * kBlockBytes;  // the folder and the token
}

}  // namespace pimoe
