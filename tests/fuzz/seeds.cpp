/// Writes the first inputs of the targets, by the program's own writers: `fuzz_seeds FOLDER`, the folder that holds one for each target.

#include "fuzz/fuzz_target.h"

#include "base/file_io.h"
#include "base/hdf5_file.h"
#include "checkpoint/tiny_checkpoint.h"
#include "data/token_file.h"
#include "data/token_file_format.h"

#include <cstring>
#include <numeric>

namespace {

namespace fs = std::filesystem;
using pimoe::write_text;

template <class Value>
void append(std::string& text, Value value) {
  text.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// The input of token_file_fuzz.cpp.
std::string corpus_input(int sequence_length, const std::string& index, const std::string& tokens) {
  std::string input;
  append(input, static_cast<uint8_t>(sequence_length - 1));
  append(input, static_cast<uint16_t>(index.size()));
  return input + index + tokens;
}

void write_corpora(const fs::path& folder) {
  const pimoe::TemporaryFolder scratch;
  for (const int64_t vocabulary : {1000, 100'000}) {
    const fs::path prefix = scratch.path() / "corpus";
    pimoe::TokenFileWriter writer(prefix, vocabulary);
    for (const int length : {5, 1, 0, 40, 17}) {
      std::vector<int32_t> ids(static_cast<size_t>(length));
      std::iota(ids.begin(), ids.end(), 3);
      writer.add(ids);
      writer.end_document();
    }
    writer.finish();
    const std::string name = vocabulary == 1000 ? "u16" : "i32";
    write_text(folder / name,
               corpus_input(8, pimoe::read_text(scratch.path() / "corpus.idx"), pimoe::read_text(scratch.path() / "corpus.bin")));
  }
}

/// Two documents of three sequences with a hole between the sequences' tokens, and modes: what Megatron may write and PiMoE does not.
template <class Token>
std::string foreign_corpus(uint8_t dtype) {
  namespace format = pimoe::index_format;
  std::string index(format::kMagic.begin(), format::kMagic.end());
  append(index, format::kVersion);
  append(index, dtype);
  append(index, uint64_t{3});
  append(index, uint64_t{3});
  for (const int32_t length : {4, 3, 6}) append(index, length);
  for (const int64_t place : {0, 6, 9}) append(index, static_cast<int64_t>(place * sizeof(Token)));
  for (const int64_t end : {0, 2, 3}) append(index, end);
  for (int i = 0; i < 3; ++i) append(index, int8_t{0});
  std::string tokens;
  for (int i = 0; i < 15; ++i) append(tokens, static_cast<Token>(i));
  return corpus_input(3, index, tokens);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace pimoe;
  if (argc != 2) return 64;
  const fs::path root = argv[1];
  for (const char* target : {"token_file", "manifest", "shard"}) fs::create_directories(root / target);

  write_corpora(root / "token_file");
  write_text(root / "token_file" / "foreign-u8", foreign_corpus<uint8_t>(index_format::kUint8));
  write_text(root / "token_file" / "foreign-i8", foreign_corpus<int8_t>(index_format::kInt8));
  write_text(root / "token_file" / "foreign-i16", foreign_corpus<int16_t>(index_format::kInt16));
  write_text(root / "token_file" / "foreign-i64", foreign_corpus<int64_t>(index_format::kInt64));

  const TemporaryFolder scratch;
  const fs::path checkpoint = scratch.path() / "step-00000007";
  save_snapshot(checkpoint, tiny_snapshot(7));
  write_text(root / "manifest" / "tiny", read_text(checkpoint / "manifest.json"));
  write_text(root / "shard" / "tiny", read_text(checkpoint / "rank-0000-of-0001-part-000.h5"));
  save_snapshot(scratch.path() / "step-00000008", tiny_snapshot(8), /*part_bytes=*/64);
  write_text(root / "manifest" / "parts", read_text(scratch.path() / "step-00000008" / "manifest.json"));
  write_text(root / "shard" / "part", read_text(scratch.path() / "step-00000008" / "rank-0000-of-0001-part-001.h5"));
  return 0;
}
