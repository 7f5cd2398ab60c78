#include "data/documents.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <optional>
#include <set>

#include "base/errors.h"
#include "base/text.h"
#include "data/input_stream.h"
#include "data/sample_text.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_of(const InputFiles& found) {
  std::vector<std::string> names;
  for (const InputFile& file : found.files) names.push_back(file.path.filename().string());
  return names;
}

std::vector<std::string> documents_of(const fs::path& path) {
  std::vector<std::string> documents;
  std::string current;
  const InputFile file = input_file(path, static_cast<int64_t>(fs::file_size(path)));
  read_documents(file, "text", [&](const DocumentPart& part) {
    EXPECT_LE(part.text.size(), 1u << 20);
    EXPECT_LE(part.file_position, file.bytes);
    current += part.text;
    if (part.ends_document) documents.push_back(std::exchange(current, ""));
  });
  EXPECT_EQ(current, "") << "a document was not ended";
  return documents;
}

std::string jsonl_complaint(const TemporaryFolder& folder, const std::string& content) {
  try {
    documents_of(folder.write("bad.jsonl", content));
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}

std::string gzipped(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstandard(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1));
  return out;
}

/// What is handed out from a place on: each part with a mark where it ends a document.
std::vector<std::string> parts_from(const fs::path& path, const ReadPoint& from, std::vector<std::optional<ReadPoint>>* points = nullptr) {
  std::vector<std::string> parts;
  const auto take = [&](const DocumentPart& part) {
    parts.push_back(concat(part.text, part.ends_document ? "$" : ""));
    if (points != nullptr) points->push_back(part.after);
  };
  EXPECT_FALSE(read_documents(input_file(path, static_cast<int64_t>(fs::file_size(path))), "text", take, from));
  return parts;
}

TEST(Documents, ReadingGoesOnFromEveryPlaceBetweenParts) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += concat("line ", i, " of the text\n");  // over three blocks
  const std::string lines =
      concat("{\"text\": \"a\"}\n\n{\"text\": \"", std::string(2'500'000, 'x'), "\"}\r\n{\"text\": \"\"}\n{\"text\": \"b\"}");
  for (const fs::path& path : {folder.write("a.txt", text), folder.write("a.txt.gz", gzipped(text)), folder.write("b.jsonl", lines),
                               folder.write("b.jsonl.zst", zstandard(lines)), folder.write("c.txt", "short")}) {
    std::vector<std::optional<ReadPoint>> points;
    const std::vector<std::string> whole = parts_from(path, {}, &points);
    size_t places = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      if (!points[i]) continue;
      const bool is_whole_text = path.string().find(".txt") != std::string::npos && i + 1 == whole.size();
      if (is_whole_text) continue;  // the next file begins there
      ++places;
      EXPECT_EQ(points[i]->in_document, !whole[i].ends_with('$'));
      EXPECT_EQ(parts_from(path, *points[i]), std::vector<std::string>(whole.begin() + static_cast<std::ptrdiff_t>(i) + 1, whole.end()))
          << path << " after part " << i;
    }
    EXPECT_EQ(places, path.filename() == "c.txt" ? 0u : path.string().find("jsonl") != std::string::npos ? 5u : whole.size() - 1) << path;
  }
}

TEST(Documents, ALineBehindAPlaceHasItsNumber) {
  const TemporaryFolder folder;
  const fs::path path = folder.write("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\nno json\n");
  std::vector<ReadPoint> points;
  EXPECT_THROW(read_documents(input_file(path, 1), "text", [&](const DocumentPart& part) { points.push_back(*part.after); }), DataError);
  ASSERT_EQ(points.size(), 2u);
  try {
    read_documents(
        input_file(path, 1), "text", [](const DocumentPart&) {}, points[1]);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("a.jsonl:3: the line is no JSON"), std::string::npos) << error.what();
  }
}

TEST(Documents, CompressedFilesGiveTheirText) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 200'000; ++i) text += concat("line ", i, " of the text\n");  // over three blocks
  std::string lines;
  for (int i = 0; i < 5000; ++i) lines += concat("{\"text\": \"document ", i, "\"}\n");
  const auto whole = documents_of(folder.write("a.txt", text));
  const auto each = documents_of(folder.write("a.jsonl", lines));
  ASSERT_EQ(whole.size(), 1u);
  ASSERT_EQ(each.size(), 5000u);
  EXPECT_EQ(documents_of(folder.write("a.txt.gz", gzipped(text))), whole);
  EXPECT_EQ(documents_of(folder.write("a.txt.zst", zstandard(text))), whole);
  EXPECT_EQ(documents_of(folder.write("a.jsonl.gz", gzipped(lines))), each);
  EXPECT_EQ(documents_of(folder.write("a.jsonl.zst", zstandard(lines))), each);
  // Streams one after the other, as `cat a.gz b.gz` and pigz make them.
  const size_t middle = lines.find('\n', lines.size() / 2) + 1;
  EXPECT_EQ(documents_of(folder.write("b.jsonl.gz", gzipped(lines.substr(0, middle)) + gzipped(lines.substr(middle)))), each);
  EXPECT_EQ(documents_of(folder.write("b.jsonl.zst", zstandard(lines.substr(0, middle)) + zstandard(lines.substr(middle)))), each);
  EXPECT_EQ(documents_of(folder.write("empty.txt.gz", gzipped(""))), std::vector<std::string>{""});
}

TEST(Documents, DamagedCompressionIsNamed) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += concat("line ", i * 7919 % 10'007, "\n");
  const auto complaint = [&](const std::string& name, const std::string& content) -> std::string {
    try {
      documents_of(folder.write(name, content));
    } catch (const DataError& error) {
      return error.what();
    }
    return "read";
  };
  for (const std::string& name : {std::string("t.txt.gz"), std::string("t.txt.zst")}) {
    const std::string whole = name.ends_with(".gz") ? gzipped(text) : zstandard(text);
    EXPECT_NE(complaint(name, whole.substr(0, whole.size() / 2)).find(concat(name, " cannot be decompressed behind byte")),
              std::string::npos);
    EXPECT_NE(complaint(name, whole.substr(0, whole.size() / 2)).find("it ends in the middle"), std::string::npos);
    EXPECT_NE(complaint(name, "no such thing at all").find("cannot be decompressed"), std::string::npos);
  }
}

TEST(SampleLines, OfACompressedFileComeFromItsBeginning) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += concat("line ", i, "\n");
  folder.write("in/a.txt.gz", gzipped(text));
  Logger log;
  const InputFiles input = find_input({folder / "in"}, {}, log);
  const auto lines = sample_lines_of(input, "text", 40'000, 3);
  ASSERT_GT(lines.size(), 1000u);
  EXPECT_EQ(lines.front(), "line 0");
  EXPECT_EQ(lines.back().substr(0, 5), "line ");
}

TEST(FindInput, WalksFoldersInSortedOrderAndSkipsWhatIsNoText) {
  const TemporaryFolder folder;
  folder.write("in/b.txt", "b");
  folder.write("in/a/z.py", "z");
  folder.write("in/.hidden", "h");
  folder.write("in/empty.txt", "");
  folder.write("in/library.so", std::string("\177ELF\0\0", 6));
  folder.write("in/latin1.txt", "caf\xE9 au lait");
  Logger log;
  const InputFiles found = find_input({folder / "in"}, {}, log);
  EXPECT_EQ(names_of(found), (std::vector<std::string>{".hidden", "z.py", "b.txt"}));
  EXPECT_EQ(found.bytes, 3);
  EXPECT_EQ(found.skipped, 3);
}

TEST(FindInput, PatternsChooseInFoldersButNotAmongNamedFiles) {
  const TemporaryFolder folder;
  folder.write("in/a.py", "a");
  folder.write("in/b.cpp", "b");
  folder.write("in/c.txt", "c");
  const fs::path named = folder.write("named.txt", "n");
  Logger log;
  EXPECT_EQ(names_of(find_input({folder / "in", named}, {"*.py", "?.c*"}, log)), (std::vector<std::string>{"a.py", "b.cpp", "named.txt"}));
}

TEST(FindInput, LinksToFoldersAreNotFollowedAndLinksToFilesAre) {
  const TemporaryFolder folder;
  const fs::path real = folder.write("in/real.txt", "r");
  fs::create_directory_symlink(folder / "in", folder / "in/loop");
  fs::create_symlink(real, folder / "in/same.txt");
  fs::create_symlink(folder / "nowhere", folder / "in/broken.txt");
  Logger log;
  EXPECT_EQ(names_of(find_input({folder / "in"}, {}, log)), (std::vector<std::string>{"real.txt", "same.txt"}));
}

TEST(FindInput, AMissingInputIsADataError) {
  const TemporaryFolder folder;
  Logger log;
  EXPECT_THROW(find_input({folder / "nowhere"}, {}, log), DataError);
}

TEST(ReadDocuments, ATextFileIsOneDocumentWhateverItsSize) {
  const TemporaryFolder folder;
  constexpr size_t kPart = 1 << 20;
  std::string text;
  while (text.size() < 3 * kPart) text += "a line of words " + std::to_string(text.size()) + "\n";
  for (const size_t length : {size_t{1}, size_t{100}, kPart - 1, kPart, kPart + 1, 2 * kPart + 5, text.size()}) {
    const std::string content = text.substr(0, length);
    const auto documents = documents_of(folder.write("t.txt", content));
    ASSERT_EQ(documents.size(), 1u) << length;
    EXPECT_TRUE(documents[0] == content) << length;
  }
}

TEST(ReadDocuments, AByteOrderMarkAtTheBeginningIsNoText) {
  const TemporaryFolder folder;
  const std::string mark = "\xEF\xBB\xBF";
  const std::string text = concat("first\n", mark, "second");
  for (const size_t more : {size_t{0}, size_t{3} << 20}) {
    const std::string content = text + std::string(more, 'a');
    EXPECT_TRUE(documents_of(folder.write("t.txt", mark + content)) == std::vector<std::string>{content}) << more;
    EXPECT_TRUE(documents_of(folder.write("t.txt.gz", gzipped(mark + content))) == std::vector<std::string>{content}) << more;
  }
  EXPECT_EQ(documents_of(folder.write("alone.txt", mark)), (std::vector<std::string>{""}));
  EXPECT_EQ(documents_of(folder.write("a.jsonl", mark + "{\"text\": \"a\"}\n")), (std::vector<std::string>{"a"}));

  Logger log;
  folder.write("in/a.txt", mark + "some words");
  folder.write("in/b.txt.gz", gzipped(mark + "other words"));
  EXPECT_EQ(sample_lines_of(find_input({folder / "in"}, {}, log), "text", 1 << 20, 1),
            (std::vector<std::string>{"some words", "other word"}));
}

// The bad byte stands in the last block: nothing of the blocks before it may have been handed out.
TEST(ReadDocuments, ALargeFileThatTurnsOutBinaryGivesNothing) {
  const TemporaryFolder folder;
  const fs::path path = folder.write("t.txt", std::string(3 << 20, 'a') + "\xFF");
  bool was_called = false;
  const InputFile file{path, static_cast<int64_t>(fs::file_size(path)), false};
  const auto complaint = read_documents(file, "text", [&](const DocumentPart&) { was_called = true; });
  ASSERT_TRUE(complaint);
  EXPECT_EQ(complaint->position, 3 << 20);
  EXPECT_STREQ(complaint->reason, "no UTF-8");
  EXPECT_FALSE(was_called);
}

TEST(ReadDocuments, AFileOfOneBlockNamesItsFirstBadByte) {
  const TemporaryFolder folder;
  const fs::path path = folder.write("t.txt", std::string("caf\xC3\xA9 \0 \xFF", 9));
  const auto complaint = read_documents({path, 9, false}, "text", [](const DocumentPart&) { FAIL(); });
  ASSERT_TRUE(complaint);
  EXPECT_EQ(complaint->position, 6);
  EXPECT_STREQ(complaint->reason, "a NUL");
}

TEST(ReadDocuments, EachJsonlLineIsADocument) {
  const TemporaryFolder folder;
  const auto documents = documents_of(folder.write("d.jsonl",
                                                   "{\"text\": \"one\\ntwo\"}\r\n"
                                                   "\n"
                                                   "  \t\n"
                                                   "{\"id\": 7, \"text\": \"caf\\u00e9 \\ud83d\\ude00\"}\n"
                                                   "{\"text\": \"last, without a newline\"}"));
  EXPECT_EQ(documents, (std::vector<std::string>{"one\ntwo", "", "", "café 😀", "last, without a newline"}));
}

TEST(ReadDocuments, ALongJsonlTextComesInPartsOfOneDocument) {
  const TemporaryFolder folder;
  const std::string text(5 << 20, 'x');
  EXPECT_EQ(documents_of(folder.write("d.jsonl", "{\"text\": \"" + text + "\"}\n{\"text\": \"b\"}\n")),
            (std::vector<std::string>{text, "b"}));
}

TEST(ReadDocuments, ABadJsonlLineIsNamedWithItsNumber) {
  const TemporaryFolder folder;
  const std::string good = "{\"text\": \"a\"}\n";
  const auto says = [&](const std::string& line, const char* expected) {
    const std::string message = jsonl_complaint(folder, good + "\n" + line + "\n" + good);
    EXPECT_NE(message.find("bad.jsonl:3: "), std::string::npos) << message;
    EXPECT_NE(message.find(expected), std::string::npos) << message;
  };
  says("{\"text\": \"a\"", "no JSON");
  says("{\"text\": \"\xFF\"}", "no JSON");
  says("{\"text\": \"\\ud800\"}", "no JSON");
  says("[1, 2]", "not an object");
  says("{\"txt\": \"a\", \"id\": 1}", "no key \"text\" but id, txt; did you mean txt?");
  says("{}", "none at all");
  says("{\"text\": 5}", "\"text\" is a number, not a string");
}

TEST(InputStream, CountsLinesAndTheirEnds) {
  const TemporaryFolder folder;
  InputStream stream(folder.write("lines", "ab\n\ncdef"));
  std::string line;
  ASSERT_TRUE(stream.read_line(line));
  EXPECT_EQ(line, "ab");
  EXPECT_EQ(stream.line_end(), 3);
  ASSERT_TRUE(stream.read_line(line));
  EXPECT_EQ(line, "");
  ASSERT_TRUE(stream.read_line(line));
  EXPECT_EQ(line, "cdef");
  EXPECT_EQ(stream.line_number(), 3);
  EXPECT_EQ(stream.line_end(), 8);
  EXPECT_FALSE(stream.read_line(line));
}

TEST(InputStream, RefusesALineAboveTheLimit) {
  const TemporaryFolder folder;
  const fs::path path = folder.write("long.jsonl", "{}\n");
  fs::resize_file(path, 3 + kJsonlLineLimit + 1);  // a hole of NULs: no bytes on the disk
  InputStream stream(path);
  std::string line;
  ASSERT_TRUE(stream.read_line(line));
  try {
    stream.read_line(line);
    FAIL() << "a line above the limit was read";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("long.jsonl:2: the line is longer than 256 MiB"), std::string::npos) << error.what();
  }
}

/// Files of 100 lines, each line naming its file: "file-03 ...".
InputFiles numbered_files(const TemporaryFolder& folder, int count) {
  for (int i = 0; i < count; ++i) {
    std::string text;
    for (int line = 0; line < 100; ++line) text += "file-" + std::to_string(10 + i) + std::string(192, 'x') + "\n";
    folder.write("in/" + std::to_string(10 + i) + ".txt", text);
  }
  Logger log;
  return find_input({folder / "in"}, {}, log);
}

TEST(SampleLines, TakesAllOfASmallInput) {
  const TemporaryFolder folder;
  const InputFiles input = numbered_files(folder, 3);
  EXPECT_EQ(sample_lines_of(input, "text", 1 << 20, 1).size(), 300u);
}

TEST(SampleLines, DrawsWholeLinesEvenlyFromAllFiles) {
  const TemporaryFolder folder;
  const InputFiles input = numbered_files(folder, 40);  // 40 x 20,000 bytes; 25 windows of 8 KiB, one for each 32,000 bytes
  const auto lines = sample_lines_of(input, "text", 25 * 8192, 1);
  std::set<std::string> files;
  size_t bytes = 0;
  for (const std::string& line : lines) {
    EXPECT_EQ(line.size(), 199u);
    files.insert(line.substr(0, 7));
    bytes += line.size();
  }
  EXPECT_LE(bytes, 25u * 8192);
  EXPECT_GT(bytes, 25u * 8192 * 9 / 10);
  EXPECT_GE(files.size(), 25u);
  EXPECT_EQ(sample_lines_of(input, "text", 25 * 8192, 1), lines);
  EXPECT_NE(sample_lines_of(input, "text", 25 * 8192, 2), lines);
}

TEST(SampleLines, CutsBetweenCharactersWhereThereAreNoLines) {
  const TemporaryFolder folder;
  std::string text;
  while (text.size() < 200000) text += "日本語é";
  folder.write("in/a.txt", text);
  Logger log;
  const auto lines = sample_lines_of(find_input({folder / "in"}, {}, log), "text", 40000, 3);
  ASSERT_FALSE(lines.empty());
  size_t bytes = 0;
  for (const std::string& line : lines) bytes += line.size();
  EXPECT_GT(bytes, 30000u);
}

TEST(SampleLines, DrawsTheTextOfJsonlLinesAndPassesOverBadOnes) {
  const TemporaryFolder folder;
  std::string content;
  for (int i = 0; i < 2000; ++i) content += i % 10 == 0 ? "{broken\n" : "{\"text\": \"first " + std::string(80, 'y') + "\\nsecond\"}\n";
  folder.write("in/a.jsonl", content);
  Logger log;
  const InputFiles input = find_input({folder / "in"}, {}, log);
  EXPECT_EQ(sample_lines_of(input, "text", 1 << 20, 1).size(), 2u * 1800);
  const auto some = sample_lines_of(input, "text", 32768, 1);
  EXPECT_GT(some.size(), 300u);
  for (const std::string& line : some) EXPECT_TRUE(line == "second" || line.starts_with("first yyy")) << line;
}

}  // namespace
}  // namespace pimoe
