#include "base/hdf5_size.h"

#include "base/text.h"

#include <vector>

namespace pimoe {
namespace {

constexpr int64_t kFileBytes =
    3584;  // superblock, the file's text, what is left of blocks for metadata, and a block of chunks begun too soon
constexpr int64_t kGroupBytes = 1008;  // object header, B-tree, head of the heap, the first table of members
constexpr int64_t kHeaderBytes = 256;  // of a dataset: space, number format, fill value, layout, filter, the attribute dtype
constexpr int64_t kListBytes = 64;     // an attribute without its values
constexpr int64_t kMemberBytes = 82;   // an entry of a table that is half full
constexpr int64_t kNamesBytes = 88;    // of a heap when it is new
constexpr int64_t kNodeBytes = 2096;   // of a B-tree of chunks
constexpr int64_t kNodeChunks = 64;
constexpr int64_t kChunksAfterASplit = 57;  // nine tenths stay in the left node, to which nothing is added later
constexpr int64_t kChecksumBytes = 4;
constexpr int64_t kBlockBytes = 2048;  // that smaller chunks share

int64_t units_of(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

/// Nodes of the B-tree of chunks that were added in order.
int64_t nodes_of(int64_t chunks) {
  if (chunks == 0) return 0;
  if (chunks <= kNodeChunks) return 1;
  const int64_t leaves = units_of(chunks, kChunksAfterASplit);
  return leaves + nodes_of(leaves);
}

}  // namespace

void Hdf5Size::add(const std::string& name, ElementType type, int64_t count, const Hdf5Attributes& attributes) {
  std::vector<std::string> path = split(name, '/');
  const std::string own_name = path.back();
  path.pop_back();
  std::string group = "/";
  if (groups_.empty()) add_group(group);
  for (const std::string& element : path) {
    const std::string inner = concat(group, element, "/");
    if (!groups_.contains(inner)) {
      add_member(group, element);
      add_group(inner);
    }
    group = inner;
  }
  add_member(group, own_name);
  bytes_ += kHeaderBytes;
  for (const auto& [key, values] : attributes) bytes_ += kListBytes + 8 * static_cast<int64_t>(values.size());
  const int64_t chunk = chunk_elements(type, count);
  add_chunks(units_of(count, chunk), chunk * element_bytes(type) + kChecksumBytes);
}

void Hdf5Size::add_group(const std::string& path) {
  groups_[path] = {.room = kNamesBytes, .used = 8};
  bytes_ += kGroupBytes + kNamesBytes;
}

void Hdf5Size::add_member(const std::string& group, const std::string& name) {
  Names& names = groups_.at(group);
  names.used += 8 * units_of(static_cast<int64_t>(name.size()) + 1, 8);
  while (names.used > names.room) {
    names.room *= 2;
    bytes_ += names.room;  // what it was before is not used again
  }
  bytes_ += kMemberBytes;
}

void Hdf5Size::add_chunks(int64_t chunks, int64_t bytes_each) {
  bytes_ += nodes_of(chunks) * kNodeBytes;
  if (bytes_each >= kBlockBytes) {
    bytes_ += chunks * bytes_each;
  } else if (chunks > 0) {  // there is one
    auto room = rooms_.lower_bound(bytes_each);
    if (room == rooms_.end()) {
      room = rooms_.insert(kBlockBytes);
      bytes_ += kBlockBytes;
    }
    const int64_t left = *room - bytes_each;
    rooms_.erase(room);
    rooms_.insert(left);
  }
}

int64_t Hdf5Size::bytes() const { return kFileBytes + bytes_; }

}  // namespace pimoe
