/// A corpus in Megatron's indexed format: opened, read whole, and read as training reads it.
///
/// Input: u8 sequence length - 1 | u16 bytes of PREFIX.idx, little-endian (as many as there are) | PREFIX.idx | PREFIX.bin

#include "fuzz/fuzz_target.h"

#include "base/errors.h"
#include "data/data_stream.h"
#include "data/token_file.h"

#include <algorithm>
#include <vector>

namespace {

constexpr size_t kHeaderBytes = 3;
constexpr int64_t kVocabulary = 1000;

/// The stream in stretches of odd length, which begin and end inside sequences, is the stream in one piece.
void read_in_stretches(const pimoe::TokenFile& corpus) {
  const int64_t count = corpus.token_count();
  std::vector<int64_t> whole(static_cast<size_t>(count));
  corpus.read(0, count, whole.data());
  for (int64_t begin = 0; begin < count; begin += 7) {
    const int64_t length = std::min<int64_t>(7, count - begin);
    std::vector<int64_t> part(static_cast<size_t>(length));
    corpus.read(begin, length, part.data());
    pimoe::require(std::equal(part.begin(), part.end(), whole.begin() + begin), "a stretch of the stream is where the whole has it");
  }
  const int64_t largest = whole.empty() ? -1 : *std::max_element(whole.begin(), whole.end());
  pimoe::require(corpus.largest_id() == std::max<int64_t>(largest, -1) || largest < -1, "largest_id is the largest id");
}

void train_on(const std::filesystem::path& prefix, int64_t sequence_length, bool document_mask) {
  pimoe::DataStreamOptions options;
  options.sequence_length = sequence_length;
  options.vocabulary = kVocabulary;
  options.global_batch = 5;
  options.micro_batch = 2;
  options.ranks = 2;
  options.rank = 1;
  options.prefetch = false;
  options.samples.document_mask = document_mask;
  pimoe::DataStream stream(prefix, options, {.next_sample = 1'000'003});
  for (int step = 0; step < 3; ++step) stream.next_step();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  using namespace pimoe;
  if (count < kHeaderBytes) return 0;
  static const ScratchFolder folder;
  const size_t index_bytes = std::min<size_t>(bytes[1] + 256 * size_t{bytes[2]}, count - kHeaderBytes);
  const uint8_t* const index = bytes + kHeaderBytes;
  folder.put("corpus.idx", index, index_bytes);
  folder.put("corpus.bin", index + index_bytes, count - kHeaderBytes - index_bytes);
  const std::filesystem::path prefix = folder.path() / "corpus";
  try {
    {
      const TokenFile corpus(prefix);
      (void)corpus.dtype_name();
      require(corpus.document_count() >= 0 && corpus.sequence_count() >= 0, "counts are not negative");
      read_in_stretches(corpus);
    }
    for (const bool document_mask : {false, true}) train_on(prefix, int64_t{bytes[0]} + 1, document_mask);
  } catch (const DataError&) {
  }
  return 0;
}
