#include "data/packed_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>

#include "base/errors.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// A row with the memory that it points to.
struct Row {
  explicit Row(int64_t length)
      : tokens(static_cast<size_t>(length), -7), targets(tokens), counted(new bool[static_cast<size_t>(length)]), size(length) {}

  void read(const PackedReader& reader, int64_t sample, int64_t vocabulary = 1000) {
    SampleRow row{.tokens = tokens.data(), .targets = targets.data(), .counted = counted.get()};
    reader.read(sample, vocabulary, row);
    begins = row.begins;
  }

  std::vector<int64_t> tokens, targets, begins;
  std::unique_ptr<bool[]> counted;
  int64_t size;
};

/// Document d is d * 10 + 1, d * 10 + 2, ...; the marks are of every second token from the second on.
void write_documents(const fs::path& prefix, const std::vector<int>& lengths, bool with_mask = true) {
  TokenFileWriter writer(prefix, 1000, with_mask);
  for (size_t document = 0; document < lengths.size(); ++document) {
    std::vector<int32_t> ids;
    std::vector<uint8_t> learned;
    for (int i = 0; i < lengths[document]; ++i) {
      ids.push_back(static_cast<int32_t>(document) * 10 + i + 1);
      learned.push_back(i % 2 == 1 ? 1 : 0);
    }
    writer.add(ids, learned);
    writer.end_document();
  }
  writer.finish();
}

TEST(PackedReader, LaysWholeDocumentsIntoTheFullestRowThatHoldsThem) {
  const TemporaryFolder folder;
  // Documents of n tokens take n - 1 of 6 positions: 4, 3, 2, 1 and 3. Into rows: [4], then [3], then the 2 beside the 4, the 1 beside the 3, then [3].
  write_documents(folder / "corpus", {5, 4, 3, 2, 4});
  const TokenFile corpus(folder / "corpus");
  const LossMask mask(corpus);
  const PackedReader reader(corpus, &mask, {.sequence_length = 6, .shuffle = false});
  ASSERT_EQ(reader.samples_per_epoch(), 3);
  EXPECT_DOUBLE_EQ(reader.filling(), 13.0 / 18.0);
  Row row(6);
  row.read(reader, 0);
  EXPECT_EQ(row.tokens, (std::vector<int64_t>{1, 2, 3, 4, 21, 22}));
  EXPECT_EQ(row.targets, (std::vector<int64_t>{2, -1, 4, -1, 22, -1}));
  EXPECT_EQ(row.begins, (std::vector<int64_t>{0, 4}));
  row.read(reader, 1);
  EXPECT_EQ(row.tokens, (std::vector<int64_t>{11, 12, 13, 31, 0, 0}));
  EXPECT_EQ(row.targets, (std::vector<int64_t>{12, -1, 14, 32, -1, -1}));
  EXPECT_EQ(row.begins, (std::vector<int64_t>{0, 3, 4})) << "what fills the row up is a document of its own";
  EXPECT_TRUE(row.counted[3]);
  EXPECT_FALSE(row.counted[4]);
  row.read(reader, 2 + 3 * 5);  // the same in another epoch
  EXPECT_EQ(row.tokens, (std::vector<int64_t>{41, 42, 43, 0, 0, 0}));
}

TEST(PackedReader, WithoutAMaskEveryTokenButTheFirstIsLearned) {
  const TemporaryFolder folder;
  write_documents(folder / "corpus", {3, 1, 2}, /*with_mask=*/false);
  const TokenFile corpus(folder / "corpus");
  const PackedReader reader(corpus, nullptr, {.sequence_length = 3, .shuffle = false});
  ASSERT_EQ(reader.samples_per_epoch(), 1) << "a document of one token has nothing to predict";
  Row row(3);
  row.read(reader, 0);
  EXPECT_EQ(row.tokens, (std::vector<int64_t>{1, 2, 21}));
  EXPECT_EQ(row.targets, (std::vector<int64_t>{2, 3, 22}));
}

TEST(PackedReader, EveryEpochHasEachDocumentOnceAndWhole) {
  const TemporaryFolder folder;
  std::mt19937 random(11);
  for (int trial = 0; trial < 40; ++trial) {
    const auto length = static_cast<int64_t>(1 + random() % 9);
    std::vector<int> lengths(1 + random() % 60);
    for (int& each : lengths) each = static_cast<int>(1 + random() % (static_cast<uint32_t>(length) + 1));
    lengths.front() = 2;
    write_documents(folder / "corpus", lengths);
    const TokenFile corpus(folder / "corpus");
    const LossMask mask(corpus);
    for (const bool alone : {false, true}) {
      const PackedReader reader(corpus, &mask, {.sequence_length = length, .seed = random(), .shuffle = true, .alone = alone});
      Row row(length);
      std::vector<std::vector<int64_t>> orders;
      for (int64_t epoch = 0; epoch < 2; ++epoch) {
        std::multiset<int64_t> found;
        int64_t targets = 0;
        orders.emplace_back();
        for (int64_t sample = 0; sample < reader.samples_per_epoch(); ++sample) {
          row.read(reader, epoch * reader.samples_per_epoch() + sample);
          orders.back().push_back(row.tokens[0]);
          ASSERT_TRUE(row.begins.front() == 0 && std::is_sorted(row.begins.begin(), row.begins.end()));
          for (size_t i = 0; i < row.begins.size(); ++i) {
            const int64_t begin = row.begins[i];
            const int64_t end = i + 1 < row.begins.size() ? row.begins[i + 1] : length;
            if (!row.counted[static_cast<size_t>(begin)]) continue;
            const int64_t document = (row.tokens[static_cast<size_t>(begin)] - 1) / 10;
            found.insert(document);
            ASSERT_EQ(end - begin, lengths[static_cast<size_t>(document)] - 1) << "trial " << trial << ", document " << document;
            for (int64_t at = begin; at < end; ++at) {
              ASSERT_EQ(row.tokens[static_cast<size_t>(at)], document * 10 + at - begin + 1);
              ASSERT_EQ(row.targets[static_cast<size_t>(at)], (at - begin) % 2 == 0 ? document * 10 + at - begin + 2 : -1);
              targets += (at - begin) % 2 == 0 ? 1 : 0;
            }
          }
          if (alone) {
            ASSERT_LE(row.begins.size(), 2U);
          }
        }
        std::multiset<int64_t> all;
        for (size_t document = 0; document < lengths.size(); ++document) {
          if (lengths[document] >= 2) all.insert(static_cast<int64_t>(document));
        }
        EXPECT_EQ(found, all) << "trial " << trial;
        EXPECT_EQ(targets, mask.learned());
      }
      if (reader.samples_per_epoch() > 8) {
        EXPECT_NE(orders[0], orders[1]) << "epochs are shuffled anew";
      }
    }
  }
}

TEST(PackedReader, WhatDoesNotFitIsRefusedByItsNumber) {
  const TemporaryFolder folder;
  write_documents(folder / "corpus", {3, 6});
  const TokenFile corpus(folder / "corpus");
  const auto said = [](const std::function<void()>& action) -> std::string {
    try {
      action();
    } catch (const DataError& error) {
      return error.what();
    }
    return "nothing";
  };
  EXPECT_NO_THROW(PackedReader(corpus, nullptr, {.sequence_length = 5}));
  EXPECT_NE(said([&] {
              PackedReader(corpus, nullptr, {.sequence_length = 4});
            }).find("document 1 has 6 tokens, and a row of model.sequence_length (4) holds 5"),
            std::string::npos);
  const PackedReader reader(corpus, nullptr, {.sequence_length = 5, .shuffle = false});
  Row row(5);
  EXPECT_NE(said([&] { row.read(reader, 0, /*vocabulary=*/3); }).find("must be in [0, 3)"), std::string::npos);
  write_documents(folder / "short", {1, 1});
  const TokenFile brief(folder / "short");
  EXPECT_NE(said([&] { PackedReader(brief, nullptr, {.sequence_length = 4}); }).find("has no token to learn"), std::string::npos);
}

}  // namespace
}  // namespace pimoe
