#include "base/hdf5_structure.h"

#include "base/errors.h"
#include "base/hdf5_messages.h"
#include "base/hdf5_view.h"
#include "base/text.h"
#include "base/utf8.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

namespace pimoe {
namespace {

constexpr uint64_t kSuperblockBytes = 96;
constexpr uint64_t kEntryBytes = 40;
constexpr uint64_t kHeapHeaderBytes = 32;
constexpr uint64_t kTreeHeaderBytes = 24;
constexpr uint64_t kChunkRank = 32;   // half the children of a node of chunks, where the superblock says nothing else
constexpr size_t kDeepestGroup = 16;  // HDF5 visits groups by recursion
constexpr uint64_t kEndOfFreeList = 1;

/// A group's way to its members.
struct SymbolTable {
  uint64_t tree = 0;
  uint64_t heap = 0;
  bool operator==(const SymbolTable&) const = default;
};

/// The names of a group's members.
struct NameHeap {
  uint64_t begin = 0;
  uint64_t bytes = 0;
};

class StructureWalk {
 public:
  /// @param chunks  null: not wanted
  StructureWalk(Hdf5View& view, std::vector<Hdf5Chunk>* chunks) : view_(view), chunks_(chunks) {}

  void superblock() {
    view_.claim(0, kSuperblockBytes, "the superblock");
    for (const uint64_t version : {8, 9, 10, 12}) view_.require_equal(version, 1, 0, "version in the superblock");
    for (const uint64_t size : {13, 14}) view_.require_equal(size, 1, 8, "size of addresses and lengths");
    leaf_rank_ = view_.u16(16);
    tree_rank_ = view_.u16(18);
    if (leaf_rank_ == 0 || tree_rank_ == 0) view_.refuse(16, "the ranks of a group's nodes must not be 0");
    view_.require_equal(24, 8, 0, "base address");
    view_.require_equal(32, 8, kNoAddress, "address of free space");
    view_.require_equal(48, 8, kNoAddress, "address of the driver's information");
    entry(56, "", 0);
    // Where an object says that it has one link alone, HDF5 does not remember that it was there, and would go in a circle.
    for (const auto& [header, links] : links_) view_.require_equal(header + 4, 4, links, "links to an object");
  }

 private:
  /// A symbol table entry, of the root or of a group's member, and what it leads to.
  void entry(uint64_t at, const std::string& path, size_t depth) {
    const uint64_t header = view_.u64(at + 8);
    const uint64_t cached = view_.u32(at + 16);
    if (cached == 2) throw Error(concat(view_.name(), ": ", path, " is a soft or external link; only plain datasets are read"));
    if (cached > 1) view_.refuse(at + 16, concat("kind of a link (", cached, ") must be 0 or 1"));
    const bool is_new = ++links_[header] == 1;
    if (is_new) object(header, path, depth);
    // HDF5 uses the copy in the entry, too.
    if (cached == 1 && tables_[header] != SymbolTable{view_.u64(at + 24), view_.u64(at + 32)}) {
      view_.refuse(at + 24, "the entry's symbol table must be that of its group");
    }
  }

  void object(uint64_t at, const std::string& path, size_t depth) {
    const Hdf5Object object(view_, at, path);
    if (object.is_group()) {
      if (depth > kDeepestGroup) view_.refuse(at, concat("groups must not lie in each other more than ", kDeepestGroup, " deep"));
      const Hdf5Message& table = object.symbol_table();
      tables_[at] = {view_.u64(table.at), view_.u64(table.at + 8)};
      group(tables_[at], path, depth);
    } else if (const auto chunked = object.check_dataset()) {
      chunks(*chunked);
    }
  }

  NameHeap heap(uint64_t at) {
    view_.claim(at, kHeapHeaderBytes, "a heap of names");
    view_.require_signature(at, "HEAP");
    view_.require_equal(at + 4, 1, 0, "version of a heap");
    const NameHeap heap{view_.u64(at + 24), view_.u64(at + 8)};
    if (heap.bytes == 0) view_.refuse(at + 8, "a heap of names must have bytes");
    view_.claim(heap.begin, heap.bytes, "the names of a group");
    // A list that goes in a circle would keep HDF5 for ever.
    uint64_t room = heap.bytes;
    for (uint64_t free = view_.u64(at + 16); free != kEndOfFreeList && free != kNoAddress;) {
      if (free % 8 != 0 || free > heap.bytes || heap.bytes - free < 16) view_.refuse(at + 16, "a free block must lie inside its heap");
      const uint64_t bytes = view_.u64(heap.begin + free + 8);
      if (bytes < 16 || bytes > heap.bytes - free || bytes > room) view_.refuse(heap.begin + free, "a free block must end inside its heap");
      room -= bytes;
      free = view_.u64(heap.begin + free);
    }
    return heap;
  }

  /// @returns the text at `offset`, which ends inside the heap.
  std::string heap_text(const NameHeap& heap, uint64_t offset, uint64_t named_at) const {
    if (offset >= heap.bytes) view_.refuse(named_at, concat("the place of a name (", offset, ") must be inside a heap of ", heap.bytes));
    return view_.text(heap.begin + offset, heap.bytes - offset);
  }

  void group(const SymbolTable& table, const std::string& path, size_t depth) {
    const NameHeap names = heap(table.heap);
    std::string last_name;
    const auto leaf = [&](uint64_t at, uint64_t) {
      view_.claim(at, 8 + 2 * leaf_rank_ * kEntryBytes, "a node of a group");
      view_.require_signature(at, "SNOD");
      view_.require_equal(at + 4, 1, 1, "version of a node");
      const uint64_t entries = view_.u16(at + 6);
      if (entries > 2 * leaf_rank_) view_.refuse(at + 6, concat("entries (", entries, ") must be at most ", 2 * leaf_rank_));
      for (uint64_t i = 0; i < entries; ++i) {
        const uint64_t place = at + 8 + i * kEntryBytes;
        const std::string name = heap_text(names, view_.u64(place), place);
        if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos || name <= last_name) {
          view_.refuse(place, concat("the name '", printable(name), "' must be one element of a path, and follow '", printable(last_name),
                                     "' in order"));
        }
        last_name = name;
        entry(place, path.empty() ? name : concat(path, "/", name), depth + 1);
      }
    };
    const auto key = [&](uint64_t at) { (void)heap_text(names, view_.u64(at), at); };
    tree({.type = 0, .key_bytes = 8, .rank = tree_rank_}, table.tree, key, leaf);
  }

  void chunks(const ChunkedLayout& layout) {
    std::set<uint64_t> seen;
    const auto leaf = [&](uint64_t at, uint64_t key) {
      view_.require_equal(key, 4, layout.stored_bytes, "bytes of a chunk");
      view_.require_equal(key + 4, 4, 0, "filters that a chunk leaves out");
      const uint64_t first = view_.u64(key + 8);
      view_.require_equal(key + 16, 8, 0, "offset of a chunk inside an element");
      if (first % layout.chunk != 0 || first >= layout.count || !seen.insert(first).second) {
        view_.refuse(key + 8, concat("first element of a chunk (", first, ") must be a multiple of ", layout.chunk, " below ", layout.count,
                                     ", once"));
      }
      view_.claim(at, layout.stored_bytes, "a chunk");
      if (chunks_ != nullptr) chunks_->push_back({layout.path, first, at, layout.stored_bytes});
    };
    if (layout.tree != kNoAddress) {
      tree(
          {.type = 1, .key_bytes = 24, .rank = kChunkRank}, layout.tree, [](uint64_t) {}, leaf);
    }
    const uint64_t wanted = layout.count / layout.chunk + (layout.count % layout.chunk == 0 ? 0 : 1);
    if (seen.size() != wanted) {
      view_.refuse(layout.at, concat(layout.path, " has ", seen.size(), " chunks of the ", wanted, " of its ", layout.count, " elements"));
    }
  }

  struct TreeKind {
    uint64_t type;
    uint64_t key_bytes;
    uint64_t rank;  ///< a node has twice that many children at most
  };
  using LastOfLevel = std::map<uint64_t, uint64_t>;

  /// Walks a version 1 B-tree from left to right; `leaf(child, key before it)` is called for what the lowest nodes have.
  template <class CheckKey, class Leaf>
  void tree(const TreeKind& kind, uint64_t root, const CheckKey& check_key, const Leaf& leaf) {
    LastOfLevel last;
    node(kind, root, view_.u8(root + 5), last, check_key, leaf);
    for (const auto& [level, at] : last) view_.require_equal(at + 16, 8, kNoAddress, "right neighbour of the last node");
  }

  template <class CheckKey, class Leaf>
  void node(const TreeKind& kind, uint64_t at, uint64_t level, LastOfLevel& last, const CheckKey& check_key, const Leaf& leaf) {
    const uint64_t stride = kind.key_bytes + 8;
    view_.claim(at, kTreeHeaderBytes + 2 * kind.rank * stride + kind.key_bytes, "a node of a tree");
    view_.require_signature(at, "TREE");
    view_.require_equal(at + 4, 1, kind.type, "type of a tree");
    view_.require_equal(at + 5, 1, level, "level of a node");
    const uint64_t children = view_.u16(at + 6);
    if (children > 2 * kind.rank) view_.refuse(at + 6, concat("children (", children, ") must be at most ", 2 * kind.rank));
    const auto [left, is_first] = last.try_emplace(level, at);
    view_.require_equal(at + 8, 8, is_first ? kNoAddress : left->second, "left neighbour of a node");
    if (!is_first) view_.require_equal(left->second + 16, 8, at, "right neighbour of a node");
    left->second = at;
    for (uint64_t i = 0; i <= children; ++i) check_key(at + kTreeHeaderBytes + i * stride);
    for (uint64_t i = 0; i < children; ++i) {
      const uint64_t key = at + kTreeHeaderBytes + i * stride;
      const uint64_t child = view_.u64(key + kind.key_bytes);
      if (level == 0) {
        leaf(child, key);
      } else {
        node(kind, child, level - 1, last, check_key, leaf);
      }
    }
  }

  Hdf5View& view_;
  std::vector<Hdf5Chunk>* chunks_;
  uint64_t leaf_rank_ = 0;
  uint64_t tree_rank_ = 0;
  std::map<uint64_t, SymbolTable> tables_;  ///< of every group that was met, by its header's place
  std::map<uint64_t, uint64_t> links_;      ///< to every object
};

}  // namespace

void check_hdf5_structure(const std::byte* bytes, size_t count, const std::string& name) {
  Hdf5View view(bytes, count, name);
  StructureWalk(view, nullptr).superblock();
}

std::vector<Hdf5Chunk> hdf5_chunks(const std::byte* bytes, size_t count, const std::string& name) {
  std::vector<Hdf5Chunk> chunks;
  Hdf5View view(bytes, count, name);
  StructureWalk(view, &chunks).superblock();
  std::sort(chunks.begin(), chunks.end(),
            [](const Hdf5Chunk& a, const Hdf5Chunk& b) { return std::tie(a.dataset, a.first) < std::tie(b.dataset, b.first); });
  return chunks;
}

}  // namespace pimoe
