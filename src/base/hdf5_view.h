#pragma once

/// Bytes of an HDF5 file, read at places that the file itself names. Internal to hdf5_structure.cpp and hdf5_messages.cpp.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace pimoe {

inline constexpr uint64_t kNoAddress = UINT64_MAX;  ///< HDF5's undefined address

/// Every reader checks that what it reads lies inside the file. Numbers are little-endian.
class Hdf5View {
 public:
  /// Checks the signature and the end of the file in the superblock. @throws Error "NAME: it is not an HDF5 file: ..."
  Hdf5View(const std::byte* bytes, size_t count, std::string name);

  const std::string& name() const { return name_; }

  uint64_t u8(uint64_t at) const { return number(at, 1); }
  uint64_t u16(uint64_t at) const { return number(at, 2); }
  uint64_t u32(uint64_t at) const { return number(at, 4); }
  uint64_t u64(uint64_t at) const { return number(at, 8); }
  /// @param bytes  1 to 8
  uint64_t number(uint64_t at, uint64_t bytes) const;
  /// @returns the text at `at`, which must end with a zero byte within `limit` bytes.
  std::string text(uint64_t at, uint64_t limit) const;

  void require_equal(uint64_t at, uint64_t bytes, uint64_t value, const char* what) const;
  void require_signature(uint64_t at, std::string_view signature) const;
  /// Takes a range for one structure. HDF5 caches structures by address: two on the same bytes confuse it.
  /// @throws Error if it passes the end of the file, or overlaps a range that was taken.
  void claim(uint64_t at, uint64_t bytes, const char* what);

  /// @throws Error "NAME: damaged at byte AT: RULE"
  [[noreturn]] void refuse(uint64_t at, const std::string& rule) const;

 private:
  void require_inside(uint64_t at, uint64_t bytes, const char* what) const;

  const std::byte* bytes_;
  uint64_t size_;
  std::string name_;
  std::map<uint64_t, uint64_t> taken_;  ///< end of each range, by its begin; neighbours are joined
};

}  // namespace pimoe
