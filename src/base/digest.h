#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace pimoe {

/// SHA-256, fed in parts. libcrypto is seen by digest.cpp alone.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(const void* bytes, size_t count);
  /// @returns 64 lower-case hexadecimal digits; the object is used up.
  std::string finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

/// @returns the SHA-256 of `count` bytes as 64 hexadecimal digits.
std::string sha256(const void* bytes, size_t count);

/// The same of a file's size and of 256 stretches of 64 KiB, evenly apart, the first and the last among them; a file that is no longer is taken whole.
/// Tells one file from another, and not whether a byte of it has changed.
std::string sampled_sha256(const void* bytes, size_t count);
/// Of what need not be in memory. @param read  copies bytes of it, and may throw
std::string sampled_sha256(uint64_t count, const std::function<void(uint64_t offset, void* out, size_t bytes)>& read);

/// @returns the first 60 bits of a digest: what fits where whole numbers are kept.
int64_t fingerprint(const std::string& digest);

}  // namespace pimoe
