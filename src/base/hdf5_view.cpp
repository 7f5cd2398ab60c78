#include "base/hdf5_view.h"

#include "base/errors.h"
#include "base/text.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

namespace pimoe {
namespace {

constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
constexpr uint64_t kShortestFile = 96;
constexpr uint64_t kVersionAt = 8;
constexpr uint64_t kEndOfFileAt = 40;

}  // namespace

Hdf5View::Hdf5View(const std::byte* bytes, size_t count, std::string name) : bytes_(bytes), size_(count), name_(std::move(name)) {
  const std::string what = concat(name_, ": it is not an HDF5 file: ");
  if (count == 0) throw Error(what + "it is empty");
  if (count < kShortestFile || std::memcmp(bytes, kSignature.data(), kSignature.size()) != 0) {
    throw Error(what + "it does not begin as one");
  }
  if (u8(kVersionAt) != 0) throw Error(concat(name_, ": superblock version (", u8(kVersionAt), ") must be 0, HDF5's default"));
  const uint64_t end = u64(kEndOfFileAt);
  if (end > count) throw Error(concat(name_, ": it has ", count, " bytes and was written with ", end, ": it was cut"));
  size_ = end;
}

void Hdf5View::refuse(uint64_t at, const std::string& rule) const { throw Error(concat(name_, ": damaged at byte ", at, ": ", rule)); }

void Hdf5View::require_inside(uint64_t at, uint64_t bytes, const char* what) const {
  if (at > size_ || bytes > size_ - at) {
    throw Error(concat(name_, ": ", what, " of ", bytes, " bytes at ", at, " must lie inside the file of ", size_));
  }
}

uint64_t Hdf5View::number(uint64_t at, uint64_t bytes) const {
  require_inside(at, bytes, "a number");
  uint64_t value = 0;
  std::memcpy(&value, bytes_ + at, bytes);
  return value;
}

std::string Hdf5View::text(uint64_t at, uint64_t limit) const {
  require_inside(at, limit, "a text");
  const auto* const begin = reinterpret_cast<const char*>(bytes_ + at);
  const auto* const end = std::find(begin, begin + limit, '\0');
  if (end == begin + limit) refuse(at, concat("a text must end within ", limit, " bytes"));
  return {begin, end};
}

void Hdf5View::require_equal(uint64_t at, uint64_t bytes, uint64_t value, const char* what) const {
  const uint64_t found = number(at, bytes);
  if (found != value) refuse(at, concat(what, " (", found, ") must be ", value));
}

void Hdf5View::require_signature(uint64_t at, std::string_view signature) const {
  require_inside(at, signature.size(), "a signature");
  if (std::memcmp(bytes_ + at, signature.data(), signature.size()) != 0) refuse(at, concat("here must be ", std::string(signature)));
}

void Hdf5View::claim(uint64_t at, uint64_t bytes, const char* what) {
  require_inside(at, bytes, what);
  if (bytes == 0) return;
  const auto after = taken_.lower_bound(at);
  const bool overlaps_next = after != taken_.end() && after->first < at + bytes;
  const bool overlaps_before = after != taken_.begin() && std::prev(after)->second > at;
  if (overlaps_next || overlaps_before) refuse(at, concat(what, " of ", bytes, " bytes must not overlap another structure"));
  uint64_t end = at + bytes;
  if (after != taken_.end() && after->first == end) {
    end = after->second;
    taken_.erase(after);
  }
  const auto next = taken_.lower_bound(at);
  if (next != taken_.begin() && std::prev(next)->second == at) {
    std::prev(next)->second = end;
  } else {
    taken_.emplace(at, end);
  }
}

}  // namespace pimoe
