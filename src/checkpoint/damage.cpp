#include "checkpoint/damage.h"

#include "base/digest.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/fletcher32.h"
#include "base/hdf5_structure.h"
#include "base/text.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace pimoe {
namespace {

constexpr size_t kMostPlaces = 4;
constexpr uint64_t kChecksumBytes = 4;

/// Bytes [begin, end) of a file, of one dataset.
struct Range {
  std::string dataset;
  uint64_t begin;
  uint64_t end;
};

bool has_its_checksum(const std::byte* file, const Hdf5Chunk& chunk) {
  if (chunk.bytes < kChecksumBytes) return false;
  uint32_t stored = 0;
  std::memcpy(&stored, file + chunk.at + chunk.bytes - kChecksumBytes, kChecksumBytes);
  return fletcher32(file + chunk.at, chunk.bytes - kChecksumBytes) == stored;
}

/// What fletcher32 cannot tell, 0x0000 from 0xFFFF: the digest of the whole piece.
bool has_its_digest(const std::byte* file, const std::vector<Hdf5Chunk>& chunks, const StoredPiece& stored) {
  Sha256 digest;
  uint64_t left = static_cast<uint64_t>(stored.piece.numel() * element_bytes(stored.type));
  for (const Hdf5Chunk& chunk : chunks) {
    if (chunk.dataset != stored.dataset) continue;
    if (chunk.bytes < kChecksumBytes) return false;
    const uint64_t count = std::min(left, chunk.bytes - kChecksumBytes);  // the last chunk is filled up
    digest.update(file + chunk.at, count);
    left -= count;
  }
  return left == 0 && digest.finish() == stored.sha256;
}

std::string text_of(const std::vector<Range>& ranges) {
  std::vector<std::string> parts;
  for (const Range& range : ranges) {
    if (parts.size() == kMostPlaces) {
      parts.push_back(concat(ranges.size() - kMostPlaces, " more places"));
      break;
    }
    parts.push_back(concat("bytes ", grouped(static_cast<int64_t>(range.begin)), " to ", grouped(static_cast<int64_t>(range.end) - 1),
                           " of it, in ", range.dataset));
  }
  return join(parts, "; ");
}

}  // namespace

std::string place_of_damage(const std::filesystem::path& folder, const Manifest& manifest, const StoredFile& file) try {
  const std::vector<std::byte> content = read_regular_bytes(folder / file.name, file.bytes);
  if (content.size() != file.bytes) return "";
  std::vector<Hdf5Chunk> chunks;
  try {
    // The name that its errors begin with: "outside of ...: damaged at byte 48: ..."
    chunks = hdf5_chunks(content.data(), content.size(), "outside of the tensors' elements");
  } catch (const Error& error) {
    return error.what();
  }
  std::vector<Range> damaged;
  const auto add = [&damaged](const std::string& dataset, uint64_t begin, uint64_t end) {
    if (!damaged.empty() && damaged.back().dataset == dataset && damaged.back().end == begin) {
      damaged.back().end = end;
    } else {
      damaged.push_back({dataset, begin, end});
    }
  };
  for (const Hdf5Chunk& chunk : chunks) {
    if (!has_its_checksum(content.data(), chunk)) add(chunk.dataset, chunk.at, chunk.at + chunk.bytes);
  }
  for (const StoredPiece& stored : manifest.pieces) {
    if (!damaged.empty()) break;
    if (stored.file != file.name || has_its_digest(content.data(), chunks, stored)) continue;
    for (const Hdf5Chunk& chunk : chunks) {
      if (chunk.dataset == stored.dataset) add(chunk.dataset, chunk.at, chunk.at + chunk.bytes);
    }
  }
  return damaged.empty() ? "outside of the tensors' elements, where nothing is looked at" : text_of(damaged);
} catch (const IoError&) {
  return "";
}

}  // namespace pimoe
