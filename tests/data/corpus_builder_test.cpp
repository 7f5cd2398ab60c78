#include "data/corpus_builder.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "base/file_io.h"
#include "data/sample_text.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

std::string sample_document(size_t lines, uint32_t seed) {
  std::string text;
  for (const std::string& line : sample_lines(lines, seed)) text += line + "\n";
  return text;
}

/// A folder of `count` text files and, after them in order, a .jsonl of two documents.
void write_input(const TemporaryFolder& folder, int count) {
  for (int i = 0; i < count; ++i) folder.write("in/" + std::to_string(100 + i) + ".txt", sample_document(50, static_cast<uint32_t>(i)));
  folder.write("in/more.jsonl", "{\"text\": \"first of two\"}\n{\"text\": \"second\\nof two\"}\n");
}

CorpusOptions small_options(const TemporaryFolder& folder) {
  CorpusOptions options;
  options.inputs = {folder / "in"};
  options.output = folder / "out/corpus";
  options.vocabulary = 500;
  return options;
}

/// The documents of a corpus, decoded; checks that each ends with the end-of-document token and has no other.
std::vector<std::string> decoded_documents(const fs::path& prefix, const Tokenizer& tokenizer) {
  const TokenFile corpus(prefix);
  std::vector<int64_t> ids(static_cast<size_t>(corpus.token_count()));
  corpus.read(0, corpus.token_count(), ids.data());
  std::vector<std::string> documents;
  std::vector<int32_t> document;
  for (const int64_t id : ids) {
    if (id != tokenizer.end_of_document()) {
      document.push_back(static_cast<int32_t>(id));
      continue;
    }
    documents.push_back(tokenizer.decode(document));
    document.clear();
  }
  EXPECT_TRUE(document.empty());
  EXPECT_EQ(static_cast<int64_t>(documents.size()), corpus.document_count());
  return documents;
}

TEST(CorpusBuilder, EachFileAndJsonlLineIsADocumentThatComesBack) {
  const TemporaryFolder folder;
  write_input(folder, 5);
  Logger log;
  const CorpusFacts facts = build_corpus(small_options(folder), log);
  const Tokenizer tokenizer(folder / "out/corpus.model");
  std::vector<std::string> expected;
  for (uint32_t i = 0; i < 5; ++i) expected.push_back(sample_document(50, i));
  expected.insert(expected.end(), {"first of two", "second\nof two"});
  EXPECT_EQ(decoded_documents(folder / "out/corpus", tokenizer), expected);
  EXPECT_EQ(facts.documents, 7);
  EXPECT_EQ(facts.tokens, TokenFile(folder / "out/corpus").token_count());
  EXPECT_EQ(facts.learned, facts.tokens) << "of texts every token is";
  EXPECT_EQ(facts.vocabulary, 500);
  EXPECT_EQ(facts.skipped_files, 0);
  EXPECT_FALSE(fs::exists(folder / "out/corpus-validation.idx"));
}

// A blank line, one of spaces, a text of nothing; the end of the file is no line.
TEST(CorpusBuilder, CountsDocumentsWithoutText) {
  const TemporaryFolder folder;
  write_input(folder, 3);
  folder.write("in/more.jsonl", "\n{\"text\": \"first\"}\n  \n{\"text\": \"\"}\n{\"text\": \"second\"}\n");
  Logger log;
  const CorpusFacts facts = build_corpus(small_options(folder), log);
  EXPECT_EQ(facts.documents, 5);
  EXPECT_EQ(facts.empty_documents, 3);
}

TEST(CorpusBuilder, TheSameInputGivesTheSameBytesForAnyNumberOfThreads) {
  const TemporaryFolder folder;
  write_input(folder, 40);
  folder.write("in/200.txt", sample_document(60000, 9));  // several jobs
  Logger log;
  CorpusOptions options = small_options(folder);
  options.validation = 0.3;
  options.threads = 1;
  build_corpus(options, log);
  options.output = folder / "out/again";
  options.threads = 3;
  build_corpus(options, log);
  for (const char* ending : {".model", ".bin", ".idx", "-validation.bin", "-validation.idx"}) {
    EXPECT_EQ(read_file(folder / (std::string("out/again") + ending)), read_file(folder / (std::string("out/corpus") + ending))) << ending;
  }
}

TEST(CorpusBuilder, EachDocumentIsInTrainingOrInValidation) {
  const TemporaryFolder folder;
  write_input(folder, 60);
  Logger log;
  CorpusOptions options = small_options(folder);
  options.validation = 0.25;
  const CorpusFacts facts = build_corpus(options, log);
  EXPECT_EQ(facts.documents + facts.validation_documents, 62);
  EXPECT_GT(facts.validation_documents, 5);
  EXPECT_LT(facts.validation_documents, 30);
  const Tokenizer tokenizer(folder / "out/corpus.model");
  auto all = decoded_documents(folder / "out/corpus", tokenizer);
  const auto validation = decoded_documents(folder / "out/corpus-validation", tokenizer);
  all.insert(all.end(), validation.begin(), validation.end());
  std::sort(all.begin(), all.end());
  EXPECT_EQ(std::unique(all.begin(), all.end()) - all.begin(), 62);

  options.seed = 99;
  options.output = folder / "out/other";
  options.tokenizer = folder / "out/corpus.model";
  build_corpus(options, log);
  EXPECT_NE(decoded_documents(folder / "out/other-validation", tokenizer), validation);
  EXPECT_FALSE(fs::exists(folder / "out/other.model"));
}

TEST(CorpusBuilder, InspectFindsWhatBuildCounted) {
  const TemporaryFolder folder;
  write_input(folder, 5);
  Logger log;
  const CorpusFacts built = build_corpus(small_options(folder), log);
  const CorpusFacts seen = inspect_corpus(folder / "out/corpus");
  EXPECT_EQ(seen.documents, built.documents);
  EXPECT_EQ(seen.tokens, built.tokens);
  EXPECT_EQ(seen.largest_id, built.largest_id);
  EXPECT_EQ(seen.dtype, "u16");
  EXPECT_DOUBLE_EQ(seen.unigram_entropy, built.unigram_entropy);
  EXPECT_NO_THROW(verify_corpus(folder / "out/corpus", built.largest_id + 1));
  EXPECT_THROW(verify_corpus(folder / "out/corpus", built.largest_id), DataError);
}

TEST(CorpusBuilder, SkipsBinaryFilesAndCountsThem) {
  const TemporaryFolder folder;
  write_input(folder, 5);
  folder.write("in/050.dat", std::string("\0\1\2", 3));
  folder.write("in/051.txt", std::string(20000, 'a') + "\xFF");  // found out when it is read
  folder.write("in/052.txt", "");
  Logger log;
  const CorpusFacts facts = build_corpus(small_options(folder), log);
  EXPECT_EQ(facts.skipped_files, 3);
  EXPECT_EQ(facts.documents, 7);
}

std::string log_of(const CorpusOptions& options, const fs::path& file) {
  Logger log;
  log.open_file(file);
  build_corpus(options, log);
  return read_file(file);
}

TEST(CorpusBuilder, NamesTheFirstTenFilesThatTurnOutBinaryAndCountsAll) {
  const TemporaryFolder folder;
  write_input(folder, 5);
  std::string binary(20001, 'a');
  binary.back() = '\xFF';
  for (int i = 10; i < 22; ++i) folder.write("in/0" + std::to_string(i) + ".txt", binary);
  const std::string log = log_of(small_options(folder), folder / "log.txt");
  EXPECT_NE(log.find("warning: skipped: " + (folder / "in/019.txt").string() + " is binary: byte 20,000 is no UTF-8"), std::string::npos)
      << log;
  EXPECT_EQ(log.find("warning: skipped: " + (folder / "in/020.txt").string()), std::string::npos) << log;
  EXPECT_NE(log.find("12 files were left out: not text to their end (the first 10 are named above)"), std::string::npos) << log;
}

// A validation part and a tokenizer of older builds under the same PREFIX would be taken for this corpus'.
TEST(CorpusBuilder, ABuildWithdrawsWhatAnEarlierOneLeftUnderItsPrefix) {
  const TemporaryFolder folder;
  write_input(folder, 20);
  CorpusOptions options = small_options(folder);
  options.validation = 0.3;
  Logger log;
  build_corpus(options, log);
  const std::string model = read_file(folder / "out/corpus.model");

  options.validation = 0;
  options.tokenizer = folder / "out/corpus.model";
  build_corpus(options, log);
  for (const char* name : {"out/corpus-validation.idx", "out/corpus-validation.bin"}) {
    EXPECT_FALSE(fs::exists(folder / name)) << name;
    EXPECT_TRUE(fs::exists(folder / (std::string(name) + ".withdrawn"))) << name;
  }
  EXPECT_EQ(read_file(folder / "out/corpus.model"), model) << "this build's own tokenizer stays";

  fs::copy_file(folder / "out/corpus.model", folder / "other.model");
  options.tokenizer = folder / "other.model";
  build_corpus(options, log);
  EXPECT_FALSE(fs::exists(folder / "out/corpus.model"));
  EXPECT_NO_THROW(verify_corpus(folder / "out/corpus", 500));
}

TEST(CorpusBuilder, NoTextIsADataError) {
  const TemporaryFolder folder;
  write_input(folder, 2);
  folder.write("binary/a", std::string("\0", 1));
  folder.write("blank/a.jsonl", "{\"text\": \"\"}\n");
  Logger log;
  CorpusOptions options = small_options(folder);
  options.include = {"*.nothing"};
  EXPECT_THROW(build_corpus(options, log), DataError);
  options.include.clear();
  options.inputs = {folder / "binary"};
  EXPECT_THROW(build_corpus(options, log), DataError);
  options.inputs = {folder / "blank"};
  EXPECT_THROW(build_corpus(options, log), DataError);
}

// What the tokenizer lacks is text; why it does, the lines say.
TEST(CorpusBuilder, ATokenizerThatFindsNoTextNamesTheLineThatHasNone) {
  const TemporaryFolder folder;
  folder.write("a/a.jsonl", "{\"text\": \"a\"}\n{\"content\": \"some words\"}\n");
  Logger log;
  CorpusOptions options = small_options(folder);
  options.inputs = {folder / "a"};
  try {
    build_corpus(options, log);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("a.jsonl:2: the line has no key \"text\" but content"), std::string::npos) << error.what();
  }
}

TEST(CorpusBuilder, AnEmptyValidationPartIsADataError) {
  const TemporaryFolder folder;
  write_input(folder, 2);
  Logger log;
  CorpusOptions options = small_options(folder);
  options.validation = 1e-6;
  try {
    build_corpus(options, log);
    FAIL() << "a corpus without the validation part that was asked for";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("the validation part would be empty: the input has 4 documents"), std::string::npos)
        << error.what();
  }
}

TEST(CorpusBuilder, AFailedBuildLeavesTheOlderCorpusAsItWas) {
  const TemporaryFolder folder;
  write_input(folder, 3);
  Logger log;
  build_corpus(small_options(folder), log);
  const std::string tokens = read_file(folder / "out/corpus.bin");
  const std::string index = read_file(folder / "out/corpus.idx");
  const std::string model = read_file(folder / "out/corpus.model");
  folder.write("in/zz.jsonl", "{\"text\": \"good\"}\n{\"text\": 3}\n");
  EXPECT_THROW(build_corpus(small_options(folder), log), DataError);
  EXPECT_EQ(read_file(folder / "out/corpus.bin"), tokens);
  EXPECT_EQ(read_file(folder / "out/corpus.idx"), index);
  EXPECT_EQ(read_file(folder / "out/corpus.model"), model);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "out"), fs::directory_iterator()), 3);
}

TEST(CorpusBuilder, AnOutputFolderThatCannotBeMadeIsAnIoError) {
  const TemporaryFolder folder;
  write_input(folder, 2);
  folder.write("out", "a file where the folder should be");
  Logger log;
  EXPECT_THROW(build_corpus(small_options(folder), log), IoError);
}

/// Builds in a process of its own. @returns its peak of resident memory in MB.
double peak_megabytes(const CorpusOptions& options) {
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 1;
    try {
      Logger log(/*rank=*/1);
      build_corpus(options, log);
      code = 0;
    } catch (...) {
    }
    ::_exit(code);
  }
  int status = 0;
  rusage usage{};
  ::wait4(child, &status, 0, &usage);
  EXPECT_EQ(status, 0);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kToleratedMegabytes = 600;  // what the sanitizer keeps of freed memory counts too
#else
constexpr double kToleratedMegabytes = 40;  // run alone, the first size also pays for pages that the process keeps
#endif

// Three times the input, in one long document and many .jsonl ones, may not need more memory than a few jobs do.
TEST(CorpusBuilder, MemoryDoesNotGrowWithTheInput) {
  const TemporaryFolder folder;
  write_input(folder, 5);
  Logger log;
  build_corpus(small_options(folder), log);
  CorpusOptions options = small_options(folder);
  options.tokenizer = folder / "out/corpus.model";
  options.output = folder / "out/large";
  options.threads = 2;
  double peaks[2];
  for (const int size : {0, 1}) {
    std::string text;
    std::string lines;
    for (int i = 0; i < (size == 0 ? 3 : 9); ++i) text += sample_document(20000, static_cast<uint32_t>(i));
    for (int i = 0; i < (size == 0 ? 30000 : 90000); ++i) lines += "{\"text\": \"" + sample_lines(1, static_cast<uint32_t>(i))[0] + "\"}\n";
    folder.write("in/long.txt", text);
    folder.write("in/long.jsonl", lines);
    text = lines = std::string();
    peaks[size] = peak_megabytes(options);
  }
  EXPECT_LT(peaks[1] - peaks[0], kToleratedMegabytes) << peaks[0] << " MB, then " << peaks[1] << " MB";
}

// p = 1/2, 1/4, 1/4: the entropy is 1.5 bits.
TEST(UnigramCounts, EntropyOfASmallTableIsExact) {
  UnigramCounts counts;
  EXPECT_EQ(counts.entropy(), 0.0);
  EXPECT_EQ(counts.largest_id(), -1);
  for (const int64_t id : {int64_t{3}, int64_t{3}, int64_t{9}, int64_t{1} << 40}) counts.add(id);
  EXPECT_NEAR(counts.entropy(), 1.5 * std::log(2.0), 1e-12);
  EXPECT_EQ(counts.largest_id(), int64_t{1} << 40);
}

TEST(TokenizerBeside, IsFoundForTheTrainingAndTheValidationPart) {
  const TemporaryFolder folder;
  EXPECT_EQ(tokenizer_beside(folder / "c"), "");
  const fs::path model = folder.write("c.model", "m");
  EXPECT_EQ(tokenizer_beside(folder / "c"), model);
  EXPECT_EQ(tokenizer_beside(folder / "c-validation"), model);
  EXPECT_EQ(tokenizer_beside(folder / "d-validation"), "");
}

}  // namespace
}  // namespace pimoe
