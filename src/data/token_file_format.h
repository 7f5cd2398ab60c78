#pragma once

/// Where things stand in PREFIX.idx (drawn in token_file.h), shared by its reader and its writer.

#include <array>
#include <cstdint>
#include <filesystem>

namespace pimoe::index_format {

inline constexpr std::array<char, 9> kMagic = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
inline constexpr uint64_t kVersion = 1;
inline constexpr int64_t kVersionAt = 9;
inline constexpr int64_t kDtypeAt = 17;
inline constexpr int64_t kSequencesAt = 18;
inline constexpr int64_t kDocumentsAt = 26;
inline constexpr int64_t kHeaderBytes = 34;

enum Dtype : uint8_t { kUint8 = 1, kInt8 = 2, kInt16 = 3, kInt32 = 4, kInt64 = 5, kUint16 = 8 };
inline constexpr std::array<const char*, 9> kDtypeNames = {"", "u8", "i8", "i16", "i32", "i64", "", "", "u16"};

/// @returns PREFIX.bin for {PREFIX, ".bin"}; a PREFIX may have dots of its own.
inline std::filesystem::path part_name(const std::filesystem::path& prefix, const char* ending) {
  std::filesystem::path name = prefix;
  name += ending;
  return name;
}

/// @returns bytes of a token; 0 for a number that is no dtype of tokens.
inline constexpr int64_t token_bytes(int dtype) {
  constexpr std::array<int64_t, 9> kBytes = {0, 1, 1, 2, 4, 8, 0, 0, 2};
  return dtype >= 0 && dtype < static_cast<int>(kBytes.size()) ? kBytes[static_cast<size_t>(dtype)] : 0;
}

}  // namespace pimoe::index_format
