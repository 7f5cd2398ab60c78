#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

#include "base/digest.h"
#include "base/errors.h"
#include "base/text.h"
#include "data/loss_mask.h"
#include "data/temporary_file.h"
#include "data/token_file.h"
#include "data/token_file_format.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// Megatron's own border: ids up to 65,499 fit u16 with room to spare.
constexpr int64_t kUint16Vocabulary = 65500;
constexpr int64_t kBlock = 8192;
constexpr int64_t kReadBackTokens = 1 << 20;

}  // namespace

// The index is written as it grows, a hole for the header and then the lengths: offsets and document ends follow from the lengths,
// which are read back at the end. So a billion documents need no memory.
struct TokenFileWriter::State {
  State(const fs::path& output, int64_t ids_below, bool with_mask)
      : prefix(output),
        vocabulary(ids_below),
        tokens(index_format::part_name(output, ".bin")),
        index(index_format::part_name(output, ".idx")) {
    const std::array<char, index_format::kHeaderBytes> hole{};
    index.append(hole.data(), hole.size());
    if (with_mask) mask.emplace(output);
  }
  State(const fs::path& output, int64_t ids_below, const fs::path& working, const Position& from)
      : prefix(output),
        vocabulary(ids_below),
        tokens(index_format::part_name(output, ".bin"), index_format::part_name(working, ".bin"), from.tokens * token_bytes()),
        index(index_format::part_name(output, ".idx"), index_format::part_name(working, ".idx"), index_bytes(from)),
        token_count(from.tokens),
        document_tokens(from.open_tokens),
        documents(from.documents) {
    if (index.size() > 0) return;
    const std::array<char, index_format::kHeaderBytes> hole{};
    index.append(hole.data(), hole.size());
  }

  /// Nothing, header included, or the header's hole and the lengths.
  static int64_t index_bytes(const Position& from) {
    return from.tokens == 0 && from.documents == 0 ? 0 : index_format::kHeaderBytes + 4 * from.documents;
  }

  bool is_narrow() const { return vocabulary < kUint16Vocabulary; }
  int64_t token_bytes() const { return is_narrow() ? 2 : 4; }

  void append_offsets() {
    std::vector<int32_t> lengths(kBlock);
    std::vector<int64_t> offsets(kBlock);
    int64_t offset = 0;
    for (int64_t first = 0; first < documents; first += kBlock) {
      const auto count = static_cast<size_t>(std::min(kBlock, documents - first));
      index.read(index_format::kHeaderBytes + 4 * first, lengths.data(), 4 * count);
      for (size_t i = 0; i < count; ++i) {
        offsets[i] = offset;
        offset += lengths[i] * token_bytes();
      }
      index.append(offsets.data(), 8 * count);
    }
  }

  void append_document_ends() {
    for (int64_t end = 0; end <= documents; ++end) index.append(&end, sizeof end);
  }

  void append_tokens(const void* stored, size_t bytes) {
    tokens.append(stored, bytes);
    if (mask) digest.update(stored, bytes);
  }

  /// What TokenFile::sampled_digest will say of the files.
  std::string sampled_digest() {
    const auto of = [](TemporaryFile& file) {
      return sampled_sha256(static_cast<uint64_t>(file.size()),
                            [&file](uint64_t offset, void* out, size_t bytes) { file.read(static_cast<int64_t>(offset), out, bytes); });
    };
    const std::string both = of(index) + of(tokens);
    return sha256(both.data(), both.size());
  }

  void write_header() {
    const auto sequences = static_cast<uint64_t>(documents);
    const uint64_t ends = sequences + 1;
    const uint8_t dtype = is_narrow() ? index_format::kUint16 : index_format::kInt32;
    std::array<char, index_format::kHeaderBytes> header;
    std::memcpy(header.data(), index_format::kMagic.data(), index_format::kMagic.size());
    std::memcpy(header.data() + index_format::kVersionAt, &index_format::kVersion, 8);
    std::memcpy(header.data() + index_format::kDtypeAt, &dtype, 1);
    std::memcpy(header.data() + index_format::kSequencesAt, &sequences, 8);
    std::memcpy(header.data() + index_format::kDocumentsAt, &ends, 8);
    index.overwrite(0, header.data(), header.size());
  }

  fs::path prefix;
  int64_t vocabulary;
  TemporaryFile tokens;
  TemporaryFile index;
  std::optional<LossMaskWriter> mask;
  Sha256 digest;  ///< of the tokens, where there is a mask
  std::vector<uint16_t> narrow;
  int64_t token_count = 0;
  int64_t document_tokens = 0;
  int64_t documents = 0;
  bool is_complete = false;
};

TokenFileWriter::TokenFileWriter(const fs::path& prefix, int64_t vocabulary, bool with_mask)
    : state_(std::make_unique<State>(prefix, vocabulary, with_mask)) {}
TokenFileWriter::TokenFileWriter(const fs::path& prefix, int64_t vocabulary, const fs::path& working, const Position& from)
    : state_(std::make_unique<State>(prefix, vocabulary, working, from)) {}
TokenFileWriter::~TokenFileWriter() = default;

TokenFileWriter::Position TokenFileWriter::save() {
  state_->tokens.sync();
  state_->index.sync();
  return {state_->token_count, state_->documents, state_->document_tokens};
}

void TokenFileWriter::read_back(const std::function<void(const std::vector<int32_t>& ids)>& take) {
  std::vector<int32_t> ids;
  for (int64_t first = 0; first < state_->token_count; first += kReadBackTokens) {
    const auto count = static_cast<size_t>(std::min(kReadBackTokens, state_->token_count - first));
    ids.resize(count);
    if (state_->is_narrow()) {
      state_->narrow.resize(count);
      state_->tokens.read(2 * first, state_->narrow.data(), 2 * count);
      ids.assign(state_->narrow.begin(), state_->narrow.end());
    } else {
      state_->tokens.read(4 * first, ids.data(), 4 * count);
    }
    take(ids);
  }
}

void TokenFileWriter::add(const std::vector<int32_t>& ids, const std::vector<uint8_t>& learned) {
  State& state = *state_;
  if (state.mask && learned.size() != ids.size()) {
    throw Error(concat(state.prefix.string(), ": ", ids.size(), " ids come with ", learned.size(), " marks of what is learned"));
  }
  for (const int32_t id : ids) {
    if (id < 0 || id >= state.vocabulary) {
      throw DataError(concat(state.prefix.string(), ": id (", id, ") must be in [0, ", state.vocabulary, "), the vocabulary"));
    }
  }
  const auto count = static_cast<int64_t>(ids.size());
  if (state.document_tokens + count > std::numeric_limits<int32_t>::max()) {
    throw DataError(concat(state.prefix.string(), ": document ", state.documents,
                           " has more than 2,147,483,647 tokens, the most that the index can say: cut it into several"));
  }
  if (state.is_narrow()) {
    state.narrow.assign(ids.begin(), ids.end());
    state.append_tokens(state.narrow.data(), 2 * ids.size());
  } else {
    state.append_tokens(ids.data(), 4 * ids.size());
  }
  if (state.mask) state.mask->add(learned);
  state.document_tokens += count;
  state.token_count += count;
}

void TokenFileWriter::end_document() {
  if (state_->document_tokens == 0) return;
  const auto length = static_cast<int32_t>(state_->document_tokens);
  state_->index.append(&length, sizeof length);
  state_->document_tokens = 0;
  ++state_->documents;
}

void TokenFileWriter::complete() {
  if (state_->is_complete) return;
  end_document();
  state_->append_offsets();
  state_->append_document_ends();
  state_->write_header();
  state_->tokens.sync();
  state_->index.sync();
  if (state_->mask) state_->mask->complete(state_->documents, state_->sampled_digest(), state_->digest.finish());
  state_->is_complete = true;
}

void TokenFileWriter::withdraw_older() {
  const fs::path older = index_format::part_name(state_->prefix, ".idx");
  std::error_code refused;
  fs::remove(older, refused);
  if (refused) throw IoError(concat("cannot replace ", older.string(), ": ", refused.message()), refused.value());
}

void TokenFileWriter::finish() {
  complete();
  // Between the two renames an older index would stand beside the new tokens, and might even fit their size.
  withdraw_older();
  state_->tokens.publish();
  if (state_->mask) state_->mask->publish();
  state_->index.publish();
}

int64_t TokenFileWriter::token_count() const { return state_->token_count; }
int64_t TokenFileWriter::document_count() const { return state_->documents; }
int64_t TokenFileWriter::learned_count() const { return state_->mask ? state_->mask->learned() : state_->token_count; }

}  // namespace pimoe
