#pragma once

#include "base/large_file.h"
#include "data/token_file.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// Which tokens of a corpus are learned, where not all are: PREFIX.loss_mask beside PREFIX.bin and PREFIX.idx, which other readers of that format do not
/// look at. A token that is not learned is read, and its prediction does not count.
///
///     offset  type       what
///     0       8 bytes    PIMOELM\0
///     8       u64        version, 1
///     16      u64        N, tokens of the corpus
///     24      u64        D, documents
///     32      u64        tokens that are learned
///     40      64 bytes   what tells the corpus from another: TokenFile::sampled_digest, hexadecimal
///     104     64 bytes   SHA-256 of PREFIX.bin
///     168     64 bytes   SHA-256 of the bits
///     232     N bits     a bit of each token, the lowest first, 1 where it is learned; rounded up to whole bytes with zeros
///
/// Read-only, thread-safe.
class LossMask {
 public:
  static bool is_beside(const std::filesystem::path& prefix);

  /// @param corpus  must outlive the mask
  /// @throws DataError naming the file, if it is missing, damaged, or of another corpus than the one of its name
  /// @cost   reads at most 32 MiB of the corpus
  explicit LossMask(const TokenFile& corpus);

  int64_t learned() const { return learned_; }  ///< tokens
  /// Writes 1 for each of `count` tokens from stream position `begin` that is learned, else 0.
  /// REQUIRES 0 <= begin, begin + count <= the corpus' tokens.  @throws IoError
  void read(int64_t begin, int64_t count, uint8_t* out) const;
  /// @returns what tells this mask from another, 64 hexadecimal digits: the digest of its bits
  const std::string& digest() const { return bits_digest_; }

  /// Reads all of both files. @throws DataError if a byte of the corpus or of the mask is not what was written
  void verify() const;

 private:
  const TokenFile& corpus_;
  LargeFileReader file_;
  int64_t learned_ = 0;
  std::string tokens_digest_;
  std::string bits_digest_;
};

/// Writes PREFIX.loss_mask beside a corpus that is being written. It appears under its name only with `publish`.
class LossMaskWriter {
 public:
  explicit LossMaskWriter(const std::filesystem::path& prefix);
  ~LossMaskWriter();

  /// @param learned  of each token that is appended to the corpus
  void add(const std::vector<uint8_t>& learned);
  int64_t learned() const;

  /// Writes the header and brings all to the disk, under a temporary name.
  /// @param sampled_digest, tokens_digest  of the corpus, as drawn above
  void complete(int64_t documents, const std::string& sampled_digest, const std::string& tokens_digest);
  void publish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pimoe
