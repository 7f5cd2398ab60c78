#include "data/token_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "base/errors.h"
#include "base/file_io.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

template <class Value>
void put(std::string& bytes, std::initializer_list<Value> values) {
  for (const Value value : values) bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// Three sequences of 2, 0 and 3 tokens in two documents, stored as i32 in one stretch.
std::string small_index(bool with_modes = false) {
  std::string bytes("MMIDIDX\0\0", 9);
  put<uint64_t>(bytes, {1});
  put<uint8_t>(bytes, {4});
  put<uint64_t>(bytes, {3, 3});
  put<int32_t>(bytes, {2, 0, 3});
  put<int64_t>(bytes, {0, 8, 8});
  put<int64_t>(bytes, {0, 1, 3});
  if (with_modes) put<int8_t>(bytes, {0, 1, 0});
  return bytes;
}

std::string small_tokens() {
  std::string bytes;
  put<int32_t>(bytes, {7, 8, 100000, 10, 11});
  return bytes;
}

/// Replaces one little-endian value of `bytes`.
template <class Value>
std::string with(std::string bytes, size_t offset, Value value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  return bytes;
}

std::vector<int64_t> all_tokens(const TokenFile& file) {
  std::vector<int64_t> ids(static_cast<size_t>(file.token_count()));
  file.read(0, file.token_count(), ids.data());
  return ids;
}

std::string refusal(const TemporaryFolder& folder, const std::string& index, const std::string& tokens) {
  folder.write("c.idx", index);
  folder.write("c.bin", tokens);
  try {
    const TokenFile file(folder / "c");
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}

TEST(TokenFile, ReadsAnIndexWrittenByHand) {
  const TemporaryFolder folder;
  ASSERT_EQ(refusal(folder, small_index(), small_tokens()), "");
  const TokenFile file(folder / "c");
  EXPECT_EQ(file.sequence_count(), 3);
  EXPECT_EQ(file.document_count(), 2);
  EXPECT_EQ(file.dtype_name(), std::string("i32"));
  EXPECT_EQ(all_tokens(file), (std::vector<int64_t>{7, 8, 100000, 10, 11}));
  EXPECT_EQ(file.largest_id(), 100000);
  int64_t middle[3];
  file.read(1, 3, middle);
  EXPECT_EQ(std::vector<int64_t>(middle, middle + 3), (std::vector<int64_t>{8, 100000, 10}));
}

TEST(TokenFile, AllowsModesAfterTheDocumentEnds) {
  const TemporaryFolder folder;
  ASSERT_EQ(refusal(folder, small_index(/*with_modes=*/true), small_tokens()), "");
  EXPECT_EQ(all_tokens(TokenFile(folder / "c")), (std::vector<int64_t>{7, 8, 100000, 10, 11}));
}

template <class Stored>
void expect_dtype_is_read(uint8_t dtype, const char* name, std::vector<int64_t> values) {
  const TemporaryFolder folder;
  std::string tokens;
  for (const int64_t value : values) put<Stored>(tokens, {static_cast<Stored>(value)});
  std::string index("MMIDIDX\0\0", 9);
  put<uint64_t>(index, {1});
  put<uint8_t>(index, {dtype});
  put<uint64_t>(index, {1, 2});
  put<int32_t>(index, {static_cast<int32_t>(values.size())});
  put<int64_t>(index, {0, 0, 1});
  ASSERT_EQ(refusal(folder, index, tokens), "");
  const TokenFile file(folder / "c");
  EXPECT_EQ(file.dtype_name(), std::string(name));
  EXPECT_EQ(all_tokens(file), values);
}

TEST(TokenFile, ReadsEveryWholeNumberDtype) {
  expect_dtype_is_read<uint8_t>(1, "u8", {0, 255});
  expect_dtype_is_read<int8_t>(2, "i8", {0, 127, -1});
  expect_dtype_is_read<int16_t>(3, "i16", {0, 32767, -2});
  expect_dtype_is_read<int32_t>(4, "i32", {0, 2147483647, -3});
  expect_dtype_is_read<int64_t>(5, "i64", {0, int64_t{1} << 40, -4});
  expect_dtype_is_read<uint16_t>(8, "u16", {0, 65535});
}

// .bin: 1 2 . . 3 4 5 . 6   where the dots belong to no sequence
TEST(TokenFile, ReadsAcrossGapsInTheTokens) {
  const TemporaryFolder folder;
  std::string tokens;
  put<uint16_t>(tokens, {1, 2, 99, 99, 3, 4, 5, 99, 6});
  std::string index("MMIDIDX\0\0", 9);
  put<uint64_t>(index, {1});
  put<uint8_t>(index, {8});
  put<uint64_t>(index, {4, 2});
  put<int32_t>(index, {2, 0, 3, 1});
  put<int64_t>(index, {0, 6, 8, 16});
  put<int64_t>(index, {0, 4});
  ASSERT_EQ(refusal(folder, index, tokens), "");
  const TokenFile file(folder / "c");
  for (int64_t begin = 0; begin <= 6; ++begin) {
    for (int64_t count = 0; begin + count <= 6; ++count) {
      std::vector<int64_t> ids(static_cast<size_t>(count));
      file.read(begin, count, ids.data());
      std::vector<int64_t> expected(static_cast<size_t>(count));
      std::iota(expected.begin(), expected.end(), begin + 1);
      EXPECT_EQ(ids, expected) << begin << " " << count;
    }
  }
  EXPECT_EQ(file.largest_id(), 6);
}

TEST(TokenFile, NamesTheDamagedField) {
  const TemporaryFolder folder;
  const auto says = [&](const std::string& index, const std::string& tokens, const char* expected) {
    const std::string message = refusal(folder, index, tokens);
    EXPECT_NE(message.find(expected), std::string::npos) << "expected: " << expected << "\n     got: " << message;
  };
  const std::string index = small_index();
  const std::string tokens = small_tokens();
  says(with<char>(index, 0, 'X'), tokens, "does not begin with MMIDIDX");
  says(with<uint64_t>(index, 9, 2), tokens, "version (2) must be 1");
  says(with<uint8_t>(index, 17, 7), tokens, "dtype (7)");
  says(with<uint8_t>(index, 17, 200), tokens, "dtype (200)");
  says(with<uint64_t>(index, 18, 4), tokens, "is not the size of an index of 4 sequences");
  // 12 * 2^62 wraps around to 0.
  says(with<uint64_t>(index, 18, uint64_t{1} << 62), tokens, "is not the size of an index");
  says(with<uint64_t>(index, 26, 0), tokens, "0 document ends");
  says(with<int32_t>(index, 34, -1), tokens, "length (-1) must not be negative");
  says(with<int32_t>(index, 42, 4), tokens, "passes the end of");
  says(with<int64_t>(index, 54, 4), tokens, "sequence 1: byte offset (4) must be at or after the end of the sequence before it (8)");
  says(with<int64_t>(index, 62, 9), tokens, "byte offset (9) must be a multiple of the token size (4)");
  says(with<int64_t>(index, 62, int64_t{1} << 62), tokens, "passes the end of");
  says(index, tokens + "1234", "has 24 bytes and");
  says(with<int64_t>(index, 70, 1), tokens, "document end 0 (1) must be 0");
  says(with<int64_t>(index, 78, 4), tokens, "document end 1 (4)");
  says(with<int64_t>(index, 86, 2), tokens, "document end 2 (2)");
}

TEST(TokenFile, AMissingPartIsADataError) {
  const TemporaryFolder folder;
  EXPECT_THROW(TokenFile(folder / "nothing"), DataError);
  folder.write("half.idx", small_index());
  EXPECT_THROW(TokenFile(folder / "half"), DataError);
  fs::create_directory(folder / "half.bin");
  EXPECT_THROW(TokenFile(folder / "half"), DataError);
}

TEST(TokenFile, RefusesEveryTruncation) {
  const TemporaryFolder folder;
  const std::string index = small_index();
  const std::string tokens = small_tokens();
  for (size_t length = 0; length < index.size(); ++length) {
    EXPECT_NE(refusal(folder, index.substr(0, length), tokens), "") << "index cut to " << length;
  }
  for (size_t length = 0; length < tokens.size(); ++length) {
    EXPECT_NE(refusal(folder, index, tokens.substr(0, length)), "") << "tokens cut to " << length;
  }
}

// What is accepted must be readable from end to end: under the address sanitizer a read past the map's last page would show, and
// the sum of sequence lengths may not exceed the bytes there are.
TEST(TokenFile, DamagedIndexIsRefusedOrReadInsideItsFiles) {
  const uint32_t seed = std::random_device{}();
  RecordProperty("seed", std::to_string(seed));
  std::mt19937 random(seed);
  const TemporaryFolder folder;
  const std::string index = small_index(/*with_modes=*/true);
  const std::string tokens = small_tokens();
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = index;
    const int edits = 1 + static_cast<int>(random() % 3);
    for (int edit = 0; edit < edits; ++edit) {
      constexpr unsigned char kLikely[] = {0, 1, 2, 4, 8, 0x7f, 0x80, 0xff};
      damaged[random() % damaged.size()] = static_cast<char>(random() % 2 == 0 ? kLikely[random() % 8] : random() % 256);
    }
    if (random() % 8 == 0) damaged.resize(random() % (damaged.size() + 4));
    if (refusal(folder, damaged, tokens) != "") {
      ++refused;
      continue;
    }
    const TokenFile file(folder / "c");
    ASSERT_LE(file.token_count(), static_cast<int64_t>(tokens.size())) << "seed " << seed << " round " << round;
    EXPECT_EQ(all_tokens(file).size(), static_cast<size_t>(file.token_count()));
  }
  EXPECT_GT(refused, 1000) << "seed " << seed;
}

TEST(TokenFile, AnIdAtTheVocabularyIsNamedWithItsPosition) {
  const TemporaryFolder folder;
  ASSERT_EQ(refusal(folder, small_index(), small_tokens()), "");
  const TokenFile file(folder / "c");
  const std::vector<int64_t> ids = {3, 99, 100};
  EXPECT_NO_THROW(file.require_ids_below(101, 0, ids.data(), 3));
  try {
    file.require_ids_below(100, 20, ids.data(), 3);
    FAIL() << "id 100 passed";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("position 22 (100) must be in [0, 100)"), std::string::npos) << error.what();
  }
  const int64_t negative = -1;
  EXPECT_THROW(file.require_ids_below(100, 0, &negative, 1), DataError);
}

TEST(TokenFileWriter, WritesTheBytesOfTheFormat) {
  const TemporaryFolder folder;
  TokenFileWriter writer(folder / "w", 300);
  writer.add({1});
  writer.add({2, 299});
  writer.end_document();
  writer.end_document();
  writer.add({4});
  writer.end_document();
  writer.finish();
  std::string index("MMIDIDX\0\0", 9);
  put<uint64_t>(index, {1});
  put<uint8_t>(index, {8});
  put<uint64_t>(index, {2, 3});
  put<int32_t>(index, {3, 1});
  put<int64_t>(index, {0, 6});
  put<int64_t>(index, {0, 1, 2});
  std::string tokens;
  put<uint16_t>(tokens, {1, 2, 299, 4});
  EXPECT_EQ(read_file(folder / "w.idx"), index);
  EXPECT_EQ(read_file(folder / "w.bin"), tokens);
}

TEST(TokenFileWriter, StoresU16BelowTheBorderAndI32From65500) {
  const TemporaryFolder folder;
  for (const auto& [vocabulary, dtype] : {std::pair{65499, "u16"}, std::pair{65500, "i32"}}) {
    TokenFileWriter writer(folder / dtype, vocabulary);
    writer.add({vocabulary - 1, 0});
    writer.finish();
    const TokenFile file(folder / dtype);
    EXPECT_EQ(file.dtype_name(), std::string(dtype));
    EXPECT_EQ(all_tokens(file), (std::vector<int64_t>{vocabulary - 1, 0}));
  }
}

TEST(TokenFileWriter, WhatIsReadIsWhatWasWrittenOverManyBlocks) {
  const uint32_t seed = 77;
  std::mt19937 random(seed);
  const TemporaryFolder folder;
  TokenFileWriter writer(folder / "w", 70000);
  std::vector<int64_t> expected;
  for (int document = 0; document < 20000; ++document) {
    std::vector<int32_t> ids(1 + random() % 40);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % 70000);
    writer.add(ids);
    writer.end_document();
    expected.insert(expected.end(), ids.begin(), ids.end());
  }
  writer.finish();
  const TokenFile file(folder / "w");
  EXPECT_EQ(file.document_count(), 20000);
  EXPECT_EQ(all_tokens(file), expected);
}

TEST(TokenFileWriter, LeavesNothingBehindUnlessFinished) {
  const TemporaryFolder folder;
  folder.write("w.idx", "older index");
  folder.write("w.bin", "older tokens");
  {
    TokenFileWriter writer(folder / "w", 300);
    writer.add({1, 2});
    writer.complete();
  }
  EXPECT_EQ(read_file(folder / "w.idx"), "older index");
  EXPECT_EQ(read_file(folder / "w.bin"), "older tokens");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 2);
  TokenFileWriter writer(folder / "w", 300);
  writer.add({1, 2});
  writer.finish();
  EXPECT_EQ(all_tokens(TokenFile(folder / "w")), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 2);
}

TEST(TokenFileWriter, RefusesAnIdOutsideTheVocabulary) {
  const TemporaryFolder folder;
  TokenFileWriter writer(folder / "w", 300);
  EXPECT_THROW(writer.add({300}), DataError);
  EXPECT_THROW(writer.add({-1}), DataError);
}

TEST(TokenFileWriter, AMissingFolderIsAnIoErrorWithTheFilesName) {
  const TemporaryFolder folder;
  try {
    TokenFileWriter writer(folder / "no-such-folder/w", 300);
    FAIL() << "a file was made in a folder that is not there";
  } catch (const IoError& error) {
    EXPECT_EQ(error.code(), ENOENT);
    EXPECT_NE(std::string(error.what()).find("no-such-folder/w.bin"), std::string::npos) << error.what();
  }
}

/// Files of this process end at `bytes`: a write past it fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int);
};

TEST(TokenFileWriter, AFullDiskIsAnIoErrorAndLeavesNoFiles) {
  const TemporaryFolder folder;
  const FileSizeLimit limit(4096);
  {
    TokenFileWriter writer(folder / "w", 300);
    writer.add(std::vector<int32_t>(5000, 1));
    try {
      writer.finish();
      FAIL() << "10,000 bytes were written to a file of at most 4,096";
    } catch (const IoError& error) {
      EXPECT_EQ(error.code(), EFBIG);
    }
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace pimoe
