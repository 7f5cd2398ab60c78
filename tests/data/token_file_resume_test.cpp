#include <gtest/gtest.h>

#include <random>

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "data/token_file.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// Documents of random lengths, some empty; id 0 stands for the end of a part, so that documents are added in several.
std::vector<std::vector<int32_t>> parts_of_documents(int64_t vocabulary, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<int32_t>> parts(60);
  for (auto& part : parts) {
    part.resize(random() % 40);
    for (int32_t& id : part) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary));
  }
  return parts;
}

void add_parts(TokenFileWriter& writer, const std::vector<std::vector<int32_t>>& parts, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    writer.add(parts[i]);
    if (i % 3 != 0) writer.end_document();
  }
}

// Wherever it was left, and whatever was written behind what was saved.
TEST(TokenFileWriter, GoesOnToTheSameBytes) {
  for (const int64_t vocabulary : {100, 100'000}) {
    const TemporaryFolder folder;
    const auto parts = parts_of_documents(vocabulary, 11);
    TokenFileWriter whole(folder / "whole", vocabulary);
    add_parts(whole, parts, 0, parts.size());
    whole.finish();
    for (size_t left_at = 0; left_at <= parts.size(); left_at += 7) {
      SCOPED_TRACE(concat("left after ", left_at, " parts"));
      const fs::path working = folder / concat("working-", left_at);
      TokenFileWriter::Position position;
      {
        TokenFileWriter first(folder / "corpus", vocabulary, working, {});
        add_parts(first, parts, 0, left_at);
        position = first.save();
        add_parts(first, parts, left_at, std::min(parts.size(), left_at + 5));
        if (left_at % 2 == 0) first.complete();  // what a kill between completion and publication leaves
      }
      EXPECT_FALSE(fs::exists(folder / "corpus.bin"));
      TokenFileWriter second(folder / "corpus", vocabulary, working, position);
      EXPECT_EQ(second.token_count(), position.tokens);
      std::vector<int32_t> ids, expected;
      second.read_back([&](const std::vector<int32_t>& some) { ids.insert(ids.end(), some.begin(), some.end()); });
      for (size_t i = 0; i < left_at; ++i) expected.insert(expected.end(), parts[i].begin(), parts[i].end());
      EXPECT_EQ(ids, expected);
      add_parts(second, parts, left_at, parts.size());
      second.finish();
      for (const char* ending : {".bin", ".idx"}) {
        EXPECT_EQ(read_file(folder / concat("corpus", ending)), read_file(folder / concat("whole", ending))) << ending;
        fs::remove(folder / concat("corpus", ending));
      }
    }
  }
}

TEST(TokenFileWriter, FilesThatAreShorterThanWhatWasSavedAreRefused) {
  const TemporaryFolder folder;
  TokenFileWriter::Position position;
  {
    TokenFileWriter first(folder / "corpus", 100, folder / "working", {});
    first.add({1, 2, 3});
    first.end_document();
    position = first.save();
  }
  fs::resize_file(folder / "working.bin", 5);
  try {
    TokenFileWriter(folder / "corpus", 100, folder / "working", position);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("working.bin has 5 bytes, and must have at least 6"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace pimoe
