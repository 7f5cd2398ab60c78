#pragma once

/// What an HDF5 file must be before HDF5 itself may parse it. The library trusts the bytes of a file: 1.10 reads and writes outside its
/// memory, or runs for ever, on some that are damaged or forged, and a digest proves nothing against a forger, who can write it too.
///
/// Accepted are files as Hdf5Writer, h5py and HDF5 with its default settings lay them out, of numbers in one dimension:
///
///     superblock 0 ─ symbol table entry ─┬─ object header 1 of a group ─ symbol table ─┬─ B-tree ─ ... ─ nodes of entries ─┐
///                                        └──────────────── of each member <────────────┼───────────────────────────────────┘
///                                                                                      └─ heap of names
///     object header 1 of a dataset: dataspace, number format, fill value, filters (fletcher32, shuffle), attributes, and the
///     layout ─ in the header, contiguous, or ─ B-tree ─ ... ─ chunks

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// Walks every structure of the file that HDF5 would follow: each must be whole, lie inside the file, belong to one owner and be of a kind
/// that is listed above; every element of every dataset must be stored, in its place and with its right size.
/// Elements are not looked at.
/// @param name  of the file, for messages
/// @throws Error naming the file, the place in it, the value and the rule.
/// @cost proportional to what is not elements; memory of a few words for each structure and chunk
/// @source HDF5 File Format Specification Version 3.0
void check_hdf5_structure(const std::byte* bytes, size_t count, const std::string& name);

/// Where elements of a dataset are stored.
struct Hdf5Chunk {
  std::string dataset;
  uint64_t first = 0;  ///< element
  uint64_t at = 0;     ///< byte of the file
  uint64_t bytes = 0;  ///< in the file; with the filter fletcher32 the last four are the checksum of those before
};

/// The same check. @returns every chunk of every dataset, a dataset's in the order of its elements. @throws Error likewise
std::vector<Hdf5Chunk> hdf5_chunks(const std::byte* bytes, size_t count, const std::string& name);

}  // namespace pimoe
