#pragma once

#include "base/large_file.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// A corpus of token ids in Megatron's indexed format, read-only, thread-safe.
///
///     PREFIX.idx   MMIDIDX\0\0 | u64 version 1 | u8 dtype | u64 sequences S | u64 documents + 1 | i32[S] lengths | i64[S] byte offsets
///                  | i64[D + 1] document ends, the first 0 | i8[S] modes, where there are any (not read)
///     PREFIX.bin   raw tokens, little-endian, u16 (vocabulary under 65,500) or i32; dtypes 1 to 5 and 8 are read
///
/// Seen as one stream: the sequences' tokens one after the other in index order.
/// Read, not mapped: a file that is cut while it is open, or a disk that fails, is an error of the read that meets it, where a map would end the
/// process. A file that is replaced under its name (`data build` does that) stays the old one until it is opened again.
class TokenFile {
 public:
  /// Checks magic, version, dtype, counts, lengths, offsets (in order, without overlap, up to the last byte of PREFIX.bin) and document
  /// ends: nothing read later can pass the end of a file.
  /// @throws DataError naming the file, the field, its value and the rule; IoError where a file cannot be read
  /// @cost reads PREFIX.idx once; 16 bytes of memory a sequence where they do not lie side by side in PREFIX.bin
  explicit TokenFile(const std::filesystem::path& prefix);

  int64_t token_count() const { return token_count_; }
  int64_t sequence_count() const { return sequence_count_; }
  int64_t document_count() const { return document_count_; }
  const std::filesystem::path& prefix() const { return prefix_; }
  /// @returns how a token is stored: "u8", "i8", "i16", "i32", "i64" or "u16".
  const char* dtype_name() const;

  /// Copies tokens [begin, begin + count) of the stream. REQUIRES 0 <= begin, begin + count <= token_count().
  /// @throws IoError naming the file: it was cut meanwhile, or cannot be read  @cost one system call for each stretch of PREFIX.bin
  void read(int64_t begin, int64_t count, int64_t* out) const;

  /// Writes the stream positions at which documents [first, first + count) begin, which do not fall; an empty one begins where the next does.
  /// REQUIRES 0 <= first, first + count <= document_count().
  /// @throws IoError as read  @cost a system call, and one more for each 512 sequences or so
  void document_begins(int64_t first, int64_t count, int64_t* out) const;

  /// @returns the largest id; -1 for an empty corpus. @cost reads the whole file.
  int64_t largest_id() const;

  /// @returns what tells this corpus from another, 64 hexadecimal digits; a change that misses every sample (base/digest.h) does not show.
  /// @cost reads at most 16 MiB of each of its two files
  std::string sampled_digest() const;

  /// Checks that `count` ids, read from stream position `begin` on, are in [0, vocabulary).
  /// @throws DataError naming the file, the position, the id, the vocabulary and what to do.
  void require_ids_below(int64_t vocabulary, int64_t begin, const int64_t* ids, int64_t count) const;

 private:
  void read_stored(int64_t byte_offset, int64_t count, int64_t* out) const;
  void check_sequences();
  void check_documents() const;

  std::filesystem::path prefix_;
  LargeFileReader index_;
  LargeFileReader tokens_;
  int dtype_ = 0;
  int64_t token_bytes_ = 0;
  int64_t token_count_ = 0;
  int64_t sequence_count_ = 0;
  int64_t document_count_ = 0;
  /// First stream position of each sequence, and the end; empty where the file is one contiguous stretch.
  std::vector<int64_t> begins_;
  std::vector<int64_t> offsets_;  ///< in PREFIX.bin, of each sequence; empty likewise
};

/// Writes PREFIX.bin and PREFIX.idx, document by document; nothing appears under the final names before `finish`, and what was written
/// vanishes with a writer that did not finish. Every function may throw IoError (disk full and the like). Memory is constant.
class TokenFileWriter {
 public:
  /// @param vocabulary  ids are below it; decides u16 (under 65,500) or i32
  /// @param with_mask   writes PREFIX.loss_mask too (loss_mask.h), from what `add` is told of each token
  TokenFileWriter(const std::filesystem::path& prefix, int64_t vocabulary, bool with_mask = false);

  /// How much has been written.
  struct Position {
    int64_t tokens = 0;
    int64_t documents = 0;
    int64_t open_tokens = 0;  ///< of the document that is being written
  };
  /// Goes on with WORKING.bin and WORKING.idx, cut to what `from` says, which stay where they are until they are published. Without a mask.
  /// @throws DataError where they have less
  TokenFileWriter(const std::filesystem::path& prefix, int64_t vocabulary, const std::filesystem::path& working, const Position& from);
  ~TokenFileWriter();

  /// Everything that was added is on the disk when this returns: what the position that it returns can be gone on from.
  Position save();
  /// Tells of all ids that were written, in order. @cost reads WORKING.bin
  void read_back(const std::function<void(const std::vector<int32_t>& ids)>& take);

  /// Appends to the document that is being written.
  /// @throws DataError for an id outside [0, vocabulary), or a document of more than 2,147,483,647 tokens (the format's limit).
  /// @param learned  of each id whether it is learned; taken with a mask alone
  void add(const std::vector<int32_t>& ids, const std::vector<uint8_t>& learned = {});
  /// Ends the document (one sequence). An empty document is not written.
  void end_document();
  /// Ends an open document and brings everything to the disk, still under temporary names: after it `finish` only renames.
  void complete();
  /// Removes an older PREFIX.idx, which must not be taken for that of new tokens or of a new tokenizer.
  void withdraw_older();
  /// Completes, withdraws the older index, then renames .bin, .loss_mask and, last, .idx: a corpus with an index is a whole one.
  void finish();

  int64_t token_count() const;
  int64_t document_count() const;
  int64_t learned_count() const;  ///< of a corpus with a mask; else all

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pimoe
