#include "data/loss_mask.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <system_error>

#include "base/digest.h"
#include "base/errors.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "data/temporary_file.h"
#include "data/token_file_format.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr std::array<char, 8> kMagic = {'P', 'I', 'M', 'O', 'E', 'L', 'M', '\0'};
constexpr uint64_t kVersion = 1;
constexpr size_t kDigestBytes = 64;
constexpr size_t kHeaderBytes = 40 + 3 * kDigestBytes;
constexpr int64_t kBlockBytes = 256 << 10;
constexpr const char* kBuildAgain = ": build the corpus again with `pimoe data build --chat`";

struct Header {
  std::array<char, 8> magic = kMagic;
  uint64_t version = kVersion;
  uint64_t tokens = 0;
  uint64_t documents = 0;
  uint64_t learned = 0;
  char corpus[kDigestBytes] = {};
  char of_tokens[kDigestBytes] = {};
  char of_bits[kDigestBytes] = {};
};
static_assert(sizeof(Header) == kHeaderBytes);

uint64_t bytes_of_bits(uint64_t bits) { return bits / 8 + (bits % 8 != 0 ? 1 : 0); }

LargeFileReader open_mask(const fs::path& prefix) {
  const fs::path name = index_format::part_name(prefix, ".loss_mask");
  if (!LossMask::is_beside(prefix)) {
    throw DataError(concat(name.string(), " is no file: the corpus does not say which of its tokens are learned", kBuildAgain));
  }
  return LargeFileReader(name);
}

std::string hex_in(const char* digits) { return {digits, kDigestBytes}; }

}  // namespace

bool LossMask::is_beside(const fs::path& prefix) {
  std::error_code ignored;
  return fs::is_regular_file(index_format::part_name(prefix, ".loss_mask"), ignored);
}

LossMask::LossMask(const TokenFile& corpus) : corpus_(corpus), file_(open_mask(corpus.prefix())) {
  const std::string name = file_.path().string();
  Header header;
  if (file_.size() < kHeaderBytes) throw DataError(concat(name, " has ", file_.size(), " bytes; a loss mask has at least ", kHeaderBytes));
  file_.read(0, &header, sizeof header);
  if (header.magic != kMagic) throw DataError(concat(name, " does not begin with PIMOELM: it is no loss mask"));
  if (header.version != kVersion) throw DataError(concat(name, ": version (", header.version, ") must be ", kVersion));
  const auto tokens = static_cast<uint64_t>(corpus.token_count());
  const auto documents = static_cast<uint64_t>(corpus.document_count());
  if (header.tokens != tokens || header.documents != documents || hex_in(header.corpus) != corpus.sampled_digest()) {
    throw DataError(concat(name, " is of another corpus, of ", header.tokens, " tokens in ", header.documents, " documents; ",
                           corpus.prefix().string(), ".bin has ", tokens, " in ", documents,
                           header.tokens == tokens && header.documents == documents ? ", and others" : "", kBuildAgain));
  }
  if (file_.size() != kHeaderBytes + bytes_of_bits(tokens) || header.learned > tokens) {
    throw DataError(concat(name, " has ", file_.size(), " bytes; that of ", tokens, " tokens has ", kHeaderBytes + bytes_of_bits(tokens),
                           ": it was cut or damaged", kBuildAgain));
  }
  learned_ = static_cast<int64_t>(header.learned);
  tokens_digest_ = hex_in(header.of_tokens);
  bits_digest_ = hex_in(header.of_bits);
}

void LossMask::read(int64_t begin, int64_t count, uint8_t* out) const {
  std::vector<uint8_t> bytes;
  while (count > 0) {
    const int64_t first = begin / 8;
    const int64_t end = std::min((begin + count + 7) / 8, first + kBlockBytes);
    bytes.resize(static_cast<size_t>(end - first));
    file_.read(kHeaderBytes + static_cast<uint64_t>(first), bytes.data(), bytes.size());
    const int64_t taken = std::min(count, end * 8 - begin);
    for (int64_t i = 0; i < taken; ++i) {
      const int64_t bit = begin + i - first * 8;
      out[i] = bytes[static_cast<size_t>(bit / 8)] >> (bit % 8) & 1;
    }
    begin += taken;
    count -= taken;
    out += taken;
  }
}

void LossMask::verify() const {
  const auto digest_of = [](const LargeFileReader& file, uint64_t begin) {
    Sha256 digest;
    std::vector<char> block;
    while (begin < file.size()) {
      block.resize(static_cast<size_t>(std::min<uint64_t>(kBlockBytes, file.size() - begin)));
      file.read(begin, block.data(), block.size());
      digest.update(block.data(), block.size());
      begin += block.size();
    }
    return digest.finish();
  };
  const auto require = [&](const fs::path& path, const std::string& is, const std::string& was) {
    if (is == was) return;
    throw DataError(concat(path.string(), " is not what was written: its SHA-256 is ", is, ", and was ", was, kBuildAgain));
  };
  require(file_.path(), digest_of(file_, kHeaderBytes), bits_digest_);
  const LargeFileReader tokens(index_format::part_name(corpus_.prefix(), ".bin"));
  require(tokens.path(), digest_of(tokens, 0), tokens_digest_);
  int64_t learned = 0;
  std::vector<uint8_t> flags(static_cast<size_t>(kBlockBytes));
  for (int64_t begin = 0; begin < corpus_.token_count(); begin += kBlockBytes) {
    const int64_t count = std::min(kBlockBytes, corpus_.token_count() - begin);
    read(begin, count, flags.data());
    learned += std::count(flags.begin(), flags.begin() + count, 1);
  }
  if (learned != learned_) {
    throw DataError(concat(file_.path().string(), " says that ", learned_, " tokens are learned, and marks ", learned, kBuildAgain));
  }
}

struct LossMaskWriter::State {
  explicit State(const fs::path& prefix) : file(index_format::part_name(prefix, ".loss_mask")) {
    const Header hole{};
    file.append(&hole, sizeof hole);
  }

  void flush() {
    if (block.empty()) return;
    digest.update(block.data(), block.size());
    file.append(block.data(), block.size());
    block.clear();
  }

  TemporaryFile file;
  Sha256 digest;
  std::vector<uint8_t> block;
  uint64_t tokens = 0;
  uint64_t learned = 0;
  uint8_t byte = 0;  ///< of the last, incomplete one
};

LossMaskWriter::LossMaskWriter(const fs::path& prefix) : state_(std::make_unique<State>(prefix)) {}
LossMaskWriter::~LossMaskWriter() = default;

int64_t LossMaskWriter::learned() const { return static_cast<int64_t>(state_->learned); }

void LossMaskWriter::add(const std::vector<uint8_t>& learned) {
  State& state = *state_;
  for (const uint8_t flag : learned) {
    const uint8_t bit = flag != 0 ? 1 : 0;
    state.byte = static_cast<uint8_t>(state.byte | bit << (state.tokens % 8));
    state.learned += bit;
    if (++state.tokens % 8 == 0) {
      state.block.push_back(state.byte);
      state.byte = 0;
    }
  }
  if (state.block.size() >= static_cast<size_t>(kBlockBytes)) state.flush();
}

void LossMaskWriter::complete(int64_t documents, const std::string& sampled_digest, const std::string& tokens_digest) {
  State& state = *state_;
  if (state.tokens % 8 != 0) state.block.push_back(state.byte);
  state.flush();
  const std::string bits_digest = state.digest.finish();
  Header header;
  header.tokens = state.tokens;
  header.documents = static_cast<uint64_t>(documents);
  header.learned = state.learned;
  std::memcpy(header.corpus, sampled_digest.data(), kDigestBytes);
  std::memcpy(header.of_tokens, tokens_digest.data(), kDigestBytes);
  std::memcpy(header.of_bits, bits_digest.data(), kDigestBytes);
  state.file.overwrite(0, &header, sizeof header);
  state.file.sync();
}

void LossMaskWriter::publish() { state_->file.publish(); }

}  // namespace pimoe
