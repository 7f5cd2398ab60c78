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
#include <string>

namespace pimoe {

/// Walks every structure of the file that HDF5 would follow: each must be whole, lie inside the file, belong to one owner and be of a kind
/// that is listed above; every element of every dataset must be stored, in its place and with its right size.
/// Elements are not looked at.
/// @param name  of the file, for messages
/// @throws Error naming the file, the place in it, the value and the rule.
/// @cost proportional to what is not elements; memory of a few words for each structure and chunk
/// @source HDF5 File Format Specification Version 3.0
void check_hdf5_structure(const std::byte* bytes, size_t count, const std::string& name);

}  // namespace pimoe
