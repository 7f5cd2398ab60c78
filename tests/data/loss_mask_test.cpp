#include "data/loss_mask.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <random>

#include "base/errors.h"
#include "base/file_io.h"
#include "data/corpus_facts.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// Documents of these lengths, of random ids and marks. @returns the marks
std::vector<uint8_t> write_masked(const fs::path& prefix, const std::vector<int>& lengths, uint32_t seed) {
  std::mt19937 random(seed);
  TokenFileWriter writer(prefix, 300, /*with_mask=*/true);
  std::vector<uint8_t> all;
  for (const int length : lengths) {
    std::vector<int32_t> ids(static_cast<size_t>(length));
    std::vector<uint8_t> learned(ids.size());
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % 300);
    for (uint8_t& flag : learned) flag = random() % 3 == 0 ? 1 : 0;
    writer.add(ids, learned);
    writer.end_document();
    all.insert(all.end(), learned.begin(), learned.end());
  }
  writer.finish();
  return all;
}

void flip_byte(const fs::path& file, int64_t offset) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekg(offset);
  const int byte = stream.get();
  stream.seekp(offset);
  stream.put(static_cast<char>(byte ^ 1));
}

std::string said(const std::function<void()>& action) {
  try {
    action();
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing";
}

TEST(LossMask, GivesEveryMarkBackFromAnyPlace) {
  const TemporaryFolder folder;
  std::mt19937 random(3);
  for (uint32_t trial = 0; trial < 30; ++trial) {
    std::vector<int> lengths(1 + random() % 9);
    for (int& length : lengths) length = static_cast<int>(1 + random() % 40);
    const std::vector<uint8_t> marks = write_masked(folder / "corpus", lengths, trial);
    const TokenFile corpus(folder / "corpus");
    const LossMask mask(corpus);
    EXPECT_EQ(mask.learned(), std::count(marks.begin(), marks.end(), 1));
    EXPECT_NO_THROW(mask.verify());
    for (int part = 0; part < 20; ++part) {
      const auto begin = static_cast<int64_t>(random() % marks.size());
      const auto count = static_cast<int64_t>(random() % (marks.size() - static_cast<size_t>(begin) + 1));
      std::vector<uint8_t> read(static_cast<size_t>(count));
      mask.read(begin, count, read.data());
      EXPECT_TRUE(std::equal(read.begin(), read.end(), marks.begin() + begin)) << "trial " << trial << ", " << count << " from " << begin;
    }
  }
}

TEST(LossMask, OfAnotherCorpusIsRefusedByName) {
  const TemporaryFolder folder;
  EXPECT_FALSE(LossMask::is_beside(folder / "corpus"));
  write_masked(folder / "corpus", {5, 9}, 1);
  write_masked(folder / "same_size", {5, 9}, 2);
  write_masked(folder / "other_size", {5, 10}, 1);
  const TokenFile corpus(folder / "corpus");
  EXPECT_TRUE(LossMask::is_beside(folder / "corpus"));
  const auto with_mask_of = [&](const char* other) {
    fs::copy_file(folder / (std::string(other) + ".loss_mask"), folder / "corpus.loss_mask", fs::copy_options::overwrite_existing);
    return said([&] { LossMask mask(corpus); });
  };
  EXPECT_NE(with_mask_of("other_size").find("corpus.loss_mask is of another corpus, of 15 tokens in 2 documents"), std::string::npos);
  EXPECT_NE(with_mask_of("same_size").find("has 14 in 2, and others"), std::string::npos) << "stale, of the same size";
  fs::remove(folder / "corpus.loss_mask");
  EXPECT_NE(said([&] { LossMask mask(corpus); }).find("corpus.loss_mask is no file"), std::string::npos);
}

TEST(LossMask, DamageIsFound) {
  const TemporaryFolder folder;
  write_masked(folder / "corpus", {300, 17}, 5);
  const TokenFile corpus(folder / "corpus");
  const std::string whole = read_file(folder / "corpus.loss_mask");
  for (const size_t size : {size_t{0}, size_t{39}, whole.size() - 1}) {
    folder.write("corpus.loss_mask", whole.substr(0, size));
    EXPECT_NE(said([&] { LossMask mask(corpus); }).find("corpus.loss_mask has"), std::string::npos) << size;
  }
  int64_t found = 0;
  for (size_t at = 0; at < whole.size(); ++at) {
    folder.write("corpus.loss_mask", whole);
    flip_byte(folder / "corpus.loss_mask", static_cast<int64_t>(at));
    found += said([&] { LossMask(corpus).verify(); }) != "nothing" ? 1 : 0;
  }
  EXPECT_EQ(found, static_cast<int64_t>(whole.size())) << "each byte of header and bits counts";
  folder.write("corpus.loss_mask", whole);
  EXPECT_NO_THROW(verify_corpus(folder / "corpus", 300));
}

TEST(LossMask, IsWithheldWithTheCorpusUntilBothAreComplete) {
  const TemporaryFolder folder;
  {
    TokenFileWriter writer(folder / "corpus", 300, /*with_mask=*/true);
    writer.add({1, 2, 3}, {0, 1, 1});
    writer.complete();
    EXPECT_EQ(writer.learned_count(), 2);
    EXPECT_FALSE(LossMask::is_beside(folder / "corpus"));
    EXPECT_THROW(writer.add({4}), Error) << "a token without its mark";
  }
  EXPECT_TRUE(fs::is_empty(folder.path())) << "what was not finished leaves nothing";
}

}  // namespace
}  // namespace pimoe
