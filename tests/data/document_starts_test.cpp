#include "data/document_starts.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>

#include "base/errors.h"
#include "base/file_io.h"
#include "data/data_stream.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

constexpr int64_t kVocabulary = 100'000;

/// A corpus of documents of these lengths, whose token at position p is p.
std::string corpus_of(const TemporaryFolder& folder, const std::string& name, const std::vector<int>& lengths) {
  TokenFileWriter writer(folder / name, kVocabulary);
  int32_t next = 0;
  for (const int length : lengths) {
    for (int i = 0; i < length; ++i) writer.add({next++});
    writer.end_document();
  }
  writer.finish();
  return (folder / name).string();
}

template <class Value>
void put(std::string& bytes, const std::vector<Value>& values) {
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value));
}

/// PREFIX.idx and .bin of i32 tokens. @param gap  bytes of PREFIX.bin between sequences
void write_by_hand(const TemporaryFolder& folder, const std::string& name, const std::vector<int32_t>& lengths,
                   const std::vector<int64_t>& documents, int64_t gap) {
  std::string index("MMIDIDX\0\0", 9), tokens;
  put<uint64_t>(index, {1});
  put<uint8_t>(index, {4});
  put<uint64_t>(index, {lengths.size(), documents.size()});
  put(index, lengths);
  std::vector<int64_t> offsets;
  for (const int32_t length : lengths) {
    if (!tokens.empty()) tokens.append(static_cast<size_t>(gap), '\0');
    offsets.push_back(static_cast<int64_t>(tokens.size()));
    put(tokens, std::vector<int32_t>(static_cast<size_t>(length), 7));
  }
  put(index, offsets);
  put(index, documents);
  folder.write(name + ".idx", index);
  folder.write(name + ".bin", tokens);
}

// Tokens 0 1 2 | 3 | 4 5 6 7 8 | 9 10
TEST(DocumentStarts, AreThoseOfTheIndexBehindTheFirstTokenAskedFor) {
  const TemporaryFolder folder;
  const TokenFile corpus(corpus_of(folder, "c", {3, 1, 5, 2}));
  const DocumentStarts documents(corpus);
  EXPECT_EQ(documents.inside(0, 11), (std::vector<int64_t>{3, 4, 9}));
  EXPECT_EQ(documents.inside(0, 4), (std::vector<int64_t>{3})) << "the end is not inside";
  EXPECT_EQ(documents.inside(3, 5), (std::vector<int64_t>{1})) << "nor is the beginning";
  EXPECT_EQ(documents.inside(5, 4), (std::vector<int64_t>{}));
  EXPECT_EQ(documents.inside(5, 5), (std::vector<int64_t>{4}));
  EXPECT_EQ(documents.inside(10, 1), (std::vector<int64_t>{}));
}

// Sequences of 2 0 3 | | 1 0 | 4 tokens in four documents of which one is empty, side by side in PREFIX.bin and with gaps.
TEST(DocumentStarts, ADocumentMayHaveSeveralSequencesOrNone) {
  const TemporaryFolder folder;
  for (const int64_t gap : {0, 8}) {
    SCOPED_TRACE(gap);
    write_by_hand(folder, "c", {2, 0, 3, 1, 0, 4}, {0, 3, 3, 5, 6}, gap);
    const TokenFile corpus(folder / "c");
    EXPECT_EQ(corpus.document_count(), 4);
    EXPECT_EQ(DocumentStarts(corpus).inside(0, 10), (std::vector<int64_t>{5, 6}));
    write_by_hand(folder, "c", {0, 2, 3, 0}, {0, 0, 1, 3, 4, 4}, gap);  // empty ones at both ends
    const TokenFile ends(folder / "c");
    EXPECT_EQ(DocumentStarts(ends).inside(0, 5), (std::vector<int64_t>{}));
  }
}

TEST(DocumentStarts, OfManyDocumentsMatchAWalkOverTheirLengths) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const TemporaryFolder folder;
  std::vector<int> lengths(3000);
  std::vector<int64_t> begins;
  int64_t tokens = 0;
  for (int& length : lengths) {
    length = 1 + static_cast<int>(random() % (random() % 10 == 0 ? 200 : 5));
    begins.push_back(tokens);
    tokens += length;
  }
  const TokenFile corpus(corpus_of(folder, "c", lengths));
  ASSERT_EQ(corpus.token_count(), tokens);
  const DocumentStarts documents(corpus);
  for (int round = 0; round < 300; ++round) {
    const auto begin = static_cast<int64_t>(random() % static_cast<uint64_t>(tokens));
    const auto count = static_cast<int64_t>(1 + random() % static_cast<uint64_t>(tokens - begin));
    std::vector<int64_t> expected;
    for (const int64_t start : begins) {
      if (start > begin && start < begin + count) expected.push_back(start - begin);
    }
    ASSERT_EQ(documents.inside(begin, count), expected) << begin << " " << count;
  }
}

TEST(DocumentStarts, DocumentsOfOneTokenEachAreRefused) {
  const TemporaryFolder folder;
  const TokenFile ones(corpus_of(folder, "ones", std::vector<int>(40, 1)));
  try {
    const DocumentStarts documents(ones);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("ones: each of its 40 tokens is a document, and data.document_mask (true)"), std::string::npos)
        << error.what();
  }
  write_by_hand(folder, "empty", {0, 0, 0, 0, 3}, {0, 1, 2, 3, 4, 5}, 0);  // more documents than tokens, and one that has them all
  const TokenFile empty(folder / "empty");
  EXPECT_NO_THROW(DocumentStarts{empty});
  EXPECT_EQ(doubt_about_documents(ones), "");
  const TokenFile one(corpus_of(folder, "one", {50}));
  EXPECT_NE(doubt_about_documents(one).find("has no effect on " + one.prefix().string()), std::string::npos);
}

// Rows of four tokens: begins at 0 | 4 6 7 | 8, and the fourth row's last target begins a document.
TEST(RowDocuments, CollectStartsOverRowsAndLeaveOutTargetsThatBeginOne) {
  RowDocuments documents(4);
  std::vector<int64_t> targets(12, 5);
  documents.add_row({}, targets.data());
  documents.add_row({2, 3}, targets.data() + 4);
  documents.add_row({4}, targets.data() + 8);
  const at::Tensor starts = documents.starts();
  ASSERT_EQ(starts.scalar_type(), at::kInt);
  EXPECT_EQ(std::vector<int32_t>(starts.const_data_ptr<int32_t>(), starts.const_data_ptr<int32_t>() + starts.numel()),
            (std::vector<int32_t>{0, 4, 6, 7, 8, 12}));
  EXPECT_EQ(targets, (std::vector<int64_t>{5, 5, 5, 5, 5, -1, -1, 5, 5, 5, 5, -1}));
  RowDocuments packed(4);
  packed.add_row({0, 3});
  packed.add_row({0});
  const at::Tensor of_packed = packed.starts();
  EXPECT_EQ(std::vector<int32_t>(of_packed.const_data_ptr<int32_t>(), of_packed.const_data_ptr<int32_t>() + of_packed.numel()),
            (std::vector<int32_t>{0, 3, 4, 8}));
  RowDocuments huge(int64_t{1} << 31);
  huge.add_row({0});
  EXPECT_THROW(huge.starts(), ConfigError);
  const at::Tensor none = RowDocuments(4).starts();
  EXPECT_EQ(none.numel(), 1);
  EXPECT_EQ(none.const_data_ptr<int32_t>()[0], 0);
}

/// What a rank's stream says of documents, read off the tokens: each is its own position, so that a row knows where in the corpus it lies.
void expect_documents_of_corpora(const std::vector<BlendedCorpus>& corpora, const std::vector<std::set<int64_t>>& begins, int ranks,
                                 bool prefetch) {
  constexpr int64_t kLength = 6;
  int64_t boundaries = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    DataStreamOptions options;
    options.sequence_length = kLength;
    options.vocabulary = kVocabulary;
    options.global_batch = 7;
    options.micro_batch = 2;
    options.seed = 3;
    options.rank = rank;
    options.ranks = ranks;
    options.samples.document_mask = true;
    options.prefetch = prefetch;
    DataStream stream(corpora, options, {});
    const SampleBlend samples(corpora, kLength, 3, true, {.document_mask = true});
    for (int64_t step = 0; step < 6; ++step) {
      for (const MicroBatch& batch : stream.next_step()) {
        std::vector<int32_t> expected;
        for (int64_t row = 0; row < batch.tokens.size(0); ++row) {
          const size_t corpus = samples.order().place_of(step * 7 + batch.first_sequence + row).corpus;
          for (int64_t at = 0; at < kLength; ++at) {
            const int64_t token = batch.tokens[row][at].item<int64_t>();
            if (at == 0 || begins[corpus].contains(token)) expected.push_back(static_cast<int32_t>(row * kLength + at));
            const bool crosses = begins[corpus].contains(token + 1);
            boundaries += crosses;
            ASSERT_EQ(batch.targets[row][at].item<int64_t>(), crosses ? -1 : token + 1);
          }
        }
        expected.push_back(static_cast<int32_t>(batch.tokens.numel()));
        const at::Tensor& starts = batch.documents;
        ASSERT_TRUE(starts.defined());
        ASSERT_EQ(std::vector<int32_t>(starts.const_data_ptr<int32_t>(), starts.const_data_ptr<int32_t>() + starts.numel()), expected);
      }
    }
  }
  EXPECT_GT(boundaries, 20);
}

TEST(DataStream, DeliversTheDocumentsOfEachMicroBatchOfABlendAtAnyRankCountReadAheadOrNot) {
  const TemporaryFolder folder;
  std::mt19937 random(5);
  std::vector<BlendedCorpus> corpora;
  std::vector<std::set<int64_t>> begins;
  for (const char* name : {"a", "b"}) {
    std::vector<int> lengths(60);
    int64_t tokens = 0;
    begins.emplace_back();
    for (int& length : lengths) {
      length = 1 + static_cast<int>(random() % 9);
      begins.back().insert(tokens);
      tokens += length;
    }
    corpora.push_back({corpus_of(folder, name, lengths), name[0] == 'a' ? 0.7 : 0.3});
  }
  for (const int ranks : {1, 3}) {
    for (const bool prefetch : {false, true}) {
      SCOPED_TRACE(testing::Message() << ranks << " ranks, prefetch " << prefetch);
      expect_documents_of_corpora(corpora, begins, ranks, prefetch);
      expect_documents_of_corpora({corpora[1]}, {begins[1]}, ranks, prefetch);
    }
  }
}

TEST(DataStream, WithoutTheSettingNoTargetIsLeftOut) {
  const TemporaryFolder folder;
  DataStreamOptions options;
  options.sequence_length = 6;
  options.vocabulary = kVocabulary;
  options.global_batch = options.micro_batch = 3;
  DataStream stream(corpus_of(folder, "c", std::vector<int>(30, 2)), options, {});
  const MicroBatch batch = stream.next_step().at(0);
  EXPECT_FALSE(batch.documents.defined());
  EXPECT_TRUE(at::equal(batch.targets, batch.tokens + 1));
}

}  // namespace
}  // namespace pimoe
