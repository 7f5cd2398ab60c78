#include "data/token_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "base/digest.h"
#include "base/errors.h"
#include "base/text.h"
#include "data/token_file_format.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "token files are little-endian and are read as they are");

constexpr size_t kBlockBytes = size_t{256} << 10;  // of what is read at a time
constexpr size_t kSmallBlockBytes = 4096;          // where little of a list is wanted

/// A value of the index' header.
template <class Value>
Value load(const LargeFileReader& file, int64_t offset) {
  Value value;
  file.read(static_cast<uint64_t>(offset), &value, sizeof value);
  return value;
}

/// One of the index' lists, read a block at a time by who goes through it in order.
template <class Value>
class Column {
 public:
  Column(const LargeFileReader& file, int64_t offset, int64_t count, size_t block_bytes = kBlockBytes)
      : file_(file), offset_(offset), count_(count), values_(static_cast<int64_t>(block_bytes / sizeof(Value))) {}

  Value operator[](int64_t i) {
    if (i < first_ || i >= first_ + static_cast<int64_t>(block_.size())) {
      first_ = i / values_ * values_;
      block_.resize(static_cast<size_t>(std::min(values_, count_ - first_)));
      file_.read(static_cast<uint64_t>(offset_) + static_cast<uint64_t>(first_) * sizeof(Value), block_.data(),
                 block_.size() * sizeof(Value));
    }
    return block_[static_cast<size_t>(i - first_)];
  }

 private:
  const LargeFileReader& file_;
  int64_t offset_;
  int64_t count_;
  int64_t values_;  ///< of a block
  int64_t first_ = 0;
  std::vector<Value> block_;
};

template <class Stored>
void widen(const std::byte* from, int64_t count, int64_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    Stored token;
    std::memcpy(&token, from + i * static_cast<int64_t>(sizeof token), sizeof token);
    out[i] = token;
  }
}

void widen_all(int dtype, const std::byte* from, int64_t count, int64_t* out) {
  switch (dtype) {
    case index_format::kUint8: return widen<uint8_t>(from, count, out);
    case index_format::kInt8: return widen<int8_t>(from, count, out);
    case index_format::kInt16: return widen<int16_t>(from, count, out);
    case index_format::kInt32: return widen<int32_t>(from, count, out);
    default: return widen<uint16_t>(from, count, out);
  }
}

LargeFileReader open_part(const fs::path& prefix, const char* ending) {
  const fs::path name = index_format::part_name(prefix, ending);
  std::error_code ignored;
  if (!fs::is_regular_file(name, ignored)) {
    throw DataError(concat(name.string(),
                           " is no file: a corpus is PREFIX.bin and PREFIX.idx, as `pimoe data build --output PREFIX` "
                           "writes them, and is named by PREFIX"));
  }
  return LargeFileReader(name);
}

}  // namespace

TokenFile::TokenFile(const fs::path& prefix) : prefix_(prefix), index_(open_part(prefix, ".idx")), tokens_(open_part(prefix, ".bin")) {
  const std::string name = index_format::part_name(prefix, ".idx").string();
  const uint64_t bytes = index_.size();
  if (bytes < index_format::kHeaderBytes) {
    throw DataError(concat(name, " has ", bytes, " bytes; an index has at least ", index_format::kHeaderBytes));
  }
  if (load<std::array<char, index_format::kMagic.size()>>(index_, 0) != index_format::kMagic) {
    throw DataError(concat(name, " does not begin with MMIDIDX: it is no Megatron index"));
  }
  const auto version = load<uint64_t>(index_, index_format::kVersionAt);
  if (version != index_format::kVersion) throw DataError(concat(name, ": version (", version, ") must be 1"));
  dtype_ = load<uint8_t>(index_, index_format::kDtypeAt);
  token_bytes_ = index_format::token_bytes(dtype_);
  if (token_bytes_ == 0) {
    throw DataError(concat(name, ": dtype (", dtype_, ") must be that of whole numbers: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64 or 8 u16"));
  }
  const auto sequences = load<uint64_t>(index_, index_format::kSequencesAt);
  const auto ends = load<uint64_t>(index_, index_format::kDocumentsAt);
  // Compared by division first: a damaged count times 12 may wrap around to the right size.
  const uint64_t rest = bytes - index_format::kHeaderBytes;
  const bool counts_fit = ends >= 1 && sequences <= rest / 12 && ends <= rest / 8;
  const uint64_t needed = counts_fit ? 12 * sequences + 8 * ends : 0;
  if (!counts_fit || (rest != needed && rest != needed + sequences)) {
    throw DataError(concat(name, " has ", bytes, " bytes, which is not the size of an index of ", sequences, " sequences and ", ends,
                           " document ends: it was cut or damaged; copy or build it again"));
  }
  sequence_count_ = static_cast<int64_t>(sequences);
  document_count_ = static_cast<int64_t>(ends) - 1;
  check_sequences();
  check_documents();
}

void TokenFile::check_sequences() {
  const auto bin_bytes = static_cast<int64_t>(tokens_.size());
  const auto refuse = [&](int64_t sequence, const auto&... rule) {
    throw DataError(concat(prefix_.string(), ".idx: sequence ", sequence, rule...));
  };
  Column<int32_t> lengths(index_, index_format::kHeaderBytes, sequence_count_);
  Column<int64_t> offsets(index_, index_format::kHeaderBytes + 4 * sequence_count_, sequence_count_);
  int64_t end = 0;
  bool contiguous = true;
  for (int64_t i = 0; i < sequence_count_; ++i) {
    const int64_t length = lengths[i];
    const int64_t offset = offsets[i];
    if (length < 0) refuse(i, ": length (", length, ") must not be negative");
    if (offset < end) refuse(i, ": byte offset (", offset, ") must be at or after the end of the sequence before it (", end, ")");
    if (offset % token_bytes_ != 0) refuse(i, ": byte offset (", offset, ") must be a multiple of the token size (", token_bytes_, ")");
    if (offset > bin_bytes || length > (bin_bytes - offset) / token_bytes_) {
      refuse(i, " (", length, " tokens at byte ", offset, ") passes the end of ", prefix_.string(), ".bin (", bin_bytes,
             " bytes): one of the two files was cut, or they are of different corpora");
    }
    contiguous = contiguous && offset == end;
    end = offset + length * token_bytes_;
    token_count_ += length;
  }
  if (end != bin_bytes) {
    throw DataError(concat(prefix_.string(), ".bin has ", bin_bytes, " bytes and ", prefix_.string(), ".idx covers ", end,
                           ": they are of different corpora, or one was damaged"));
  }
  if (contiguous) return;
  begins_.reserve(static_cast<size_t>(sequence_count_) + 1);
  offsets_.reserve(static_cast<size_t>(sequence_count_));
  int64_t begin = 0;
  for (int64_t i = 0; i < sequence_count_; ++i) {
    begins_.push_back(begin);
    offsets_.push_back(offsets[i]);
    begin += lengths[i];
  }
  begins_.push_back(begin);
}

void TokenFile::check_documents() const {
  Column<int64_t> ends(index_, index_format::kHeaderBytes + 12 * sequence_count_, document_count_ + 1);
  int64_t before = 0;
  for (int64_t i = 0; i <= document_count_; ++i) {
    const int64_t end = ends[i];
    const bool good = i == 0 ? end == 0 : end >= before && end <= sequence_count_;
    if (!good || (i == document_count_ && end != sequence_count_)) {
      throw DataError(concat(prefix_.string(), ".idx: document end ", i, " (", end, ") must be 0 for the first, then not fall, and be ",
                             sequence_count_, ", the number of sequences, for the last"));
    }
    before = end;
  }
}

void TokenFile::document_begins(int64_t first, int64_t count, int64_t* out) const {
  if (count == 0) return;
  // The number of each one's first sequence, in whose place comes its position.
  index_.read(index_format::kHeaderBytes + 12 * static_cast<uint64_t>(sequence_count_) + 8 * static_cast<uint64_t>(first), out,
              8 * static_cast<size_t>(count));
  Column<int64_t> offsets(index_, index_format::kHeaderBytes + 4 * sequence_count_, sequence_count_, kSmallBlockBytes);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t sequence = std::clamp<int64_t>(out[i], 0, sequence_count_);  // checked when it was opened; a file may be written to
    if (sequence == sequence_count_) {
      out[i] = token_count_;
    } else {
      out[i] = begins_.empty() ? offsets[sequence] / token_bytes_ : begins_[static_cast<size_t>(sequence)];
    }
  }
}

const char* TokenFile::dtype_name() const { return index_format::kDtypeNames[static_cast<size_t>(dtype_)]; }

void TokenFile::read(int64_t begin, int64_t count, int64_t* out) const {
  if (begins_.empty()) return read_stored(begin * token_bytes_, count, out);
  int64_t sequence = std::upper_bound(begins_.begin(), begins_.end() - 1, begin) - begins_.begin() - 1;
  while (count > 0) {
    const int64_t inside = begin - begins_[static_cast<size_t>(sequence)];
    const int64_t taken = std::min(count, begins_[static_cast<size_t>(sequence) + 1] - begin);
    read_stored(offsets_[static_cast<size_t>(sequence)] + inside * token_bytes_, taken, out);
    begin += taken;
    count -= taken;
    out += taken;
    ++sequence;
  }
}

void TokenFile::read_stored(int64_t byte_offset, int64_t count, int64_t* out) const {
  if (dtype_ == index_format::kInt64) return tokens_.read(static_cast<uint64_t>(byte_offset), out, static_cast<size_t>(8 * count));
  const int64_t block = static_cast<int64_t>(kBlockBytes) / token_bytes_;
  std::vector<std::byte> stored(static_cast<size_t>(std::min(block, count) * token_bytes_));
  while (count > 0) {
    const int64_t taken = std::min(block, count);
    tokens_.read(static_cast<uint64_t>(byte_offset), stored.data(), static_cast<size_t>(taken * token_bytes_));
    widen_all(dtype_, stored.data(), taken, out);
    byte_offset += taken * token_bytes_;
    count -= taken;
    out += taken;
  }
}

int64_t TokenFile::largest_id() const {
  int64_t largest = -1;
  std::array<int64_t, 8192> ids;
  for (int64_t begin = 0; begin < token_count_; begin += static_cast<int64_t>(ids.size())) {
    const int64_t count = std::min(static_cast<int64_t>(ids.size()), token_count_ - begin);
    read(begin, count, ids.data());
    largest = std::max(largest, *std::max_element(ids.begin(), ids.begin() + count));
  }
  return largest;
}

std::string TokenFile::sampled_digest() const {
  const auto of = [](const LargeFileReader& file) {
    return sampled_sha256(file.size(), [&file](uint64_t offset, void* out, size_t bytes) { file.read(offset, out, bytes); });
  };
  const std::string both = of(index_) + of(tokens_);
  return sha256(both.data(), both.size());
}

void TokenFile::require_ids_below(int64_t vocabulary, int64_t begin, const int64_t* ids, int64_t count) const {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && ids[i] < vocabulary) continue;
    throw DataError(concat(prefix_.string(), ".bin: the id at position ", begin + i, " (", ids[i], ") must be in [0, ", vocabulary,
                           "), the vocabulary: take the tokenizer that the corpus was built with, or set model.vocabulary to its size"));
  }
}

}  // namespace pimoe
