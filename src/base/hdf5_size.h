#pragma once

#include "base/hdf5_file.h"

#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace pimoe {

/// Foretells how many bytes a file of Hdf5Writer will have, told what will be added to it: never too few, and too many by at most 8 KiB and 256
/// bytes a dataset (names of up to 100 letters).
///
/// Counts the structures of HDF5's default format as the library lays them out: tests/base/hdf5_size_test.cpp compares with files.
/// @source HDF5 File Format Specification, version 2.0: sections II.A, III.A (B-trees of version 1), III.B to III.D, IV.A
class Hdf5Size {
 public:
  /// The same arguments as Hdf5Writer::add, without the elements.
  void add(const std::string& name, ElementType type, int64_t count, const Hdf5Attributes& attributes = {});
  int64_t bytes() const;

 private:
  /// Where a group keeps the names of its members: a heap that doubles when it is full.
  struct Names {
    int64_t room = 0;
    int64_t used = 0;
  };

  void add_group(const std::string& path);
  void add_member(const std::string& group, const std::string& name);
  void add_chunks(int64_t chunks, int64_t bytes_each);

  std::map<std::string, Names> groups_;  ///< by path, "/master/"
  std::multiset<int64_t> rooms_;         ///< left of the blocks that small chunks share
  int64_t bytes_ = 0;
};

}  // namespace pimoe
