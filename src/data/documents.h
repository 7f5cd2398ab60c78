#pragma once

#include "base/log.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pimoe {

/// A file of the input: one document, or, as .jsonl, one for each line. Both may be compressed: .jsonl.gz, .jsonl.zst, .txt.gz, .txt.zst.
struct InputFile {
  std::filesystem::path path;
  int64_t bytes = 0;  ///< on the disk
  bool is_jsonl = false;
  bool is_compressed = false;
};

/// What a file's name says of it.
InputFile input_file(const std::filesystem::path& path, int64_t bytes);

struct InputFiles {
  std::vector<InputFile> files;
  int64_t bytes = 0;
  int64_t skipped = 0;  ///< empty, or binary by their first bytes
};

/// Lists the files of `inputs` in their order, folders walked in sorted order.
///
/// In a folder: regular files, hidden ones too, whose name matches one of `include` (shell patterns; all when there are none), also through
/// a link; a link to a folder is not followed, so that no walk is endless. What is skipped
/// is named in `log`: a file given by name in a warning, one of a folder in a debug line.
/// @throws DataError for an input that is neither a file nor a folder.
InputFiles find_input(const std::vector<std::filesystem::path>& inputs, const std::vector<std::string>& include, Logger& log);

/// A place in a file's text between two parts, at which reading can begin.
struct ReadPoint {
  int64_t offset = 0;        ///< in the text, decompressed
  int64_t line = 0;          ///< of a .jsonl: lines before it
  bool in_document = false;  ///< what follows goes on with a document
};

/// A part of a document.
struct DocumentPart {
  std::string_view text;  ///< at most 1 MiB; without a byte order mark at the beginning of a text file
  bool ends_document = false;
  int64_t file_position = 0;       ///< bytes of the file that were read so far
  std::optional<ReadPoint> after;  ///< nothing within the text of a .jsonl line
};
using TakePart = std::function<void(const DocumentPart& part)>;

/// Why a file is no text.
struct NotText {
  int64_t position = 0;  ///< of the first byte that is no text
  const char* reason = "";
};

/// Reads the documents of one file; a blank line of a .jsonl is one without text. Memory is bounded, whatever the file's size: 1 MiB, or one line of a .jsonl.
/// @param text_key  which member of a .jsonl line is the text
/// @param from      of an earlier reading of the file: what was handed out before is not again
/// @returns what is wrong with a text file that is binary (not UTF-8, or with a NUL): nothing of it was handed out. Nothing for a good one.
/// @throws DataError naming file and line for a .jsonl line that is no JSON object, has no text at `text_key`, or is over 256 MiB.
std::optional<NotText> read_documents(const InputFile& file, const std::string& text_key, const TakePart& take, const ReadPoint& from = {});

/// Draws lines evenly from all of the input: windows of 8 KiB, one at a random place in each of as many equal stretches. Of a compressed file,
/// which can be read from its beginning alone, as much is taken from there.
/// @returns at most about `sample_bytes` of text, as lines of at most 4 KiB; all of the text where the input has no more.
/// @cost reads little more than the sample.
std::vector<std::string> sample_lines_of(const InputFiles& input, const std::string& text_key, int64_t sample_bytes, uint64_t seed);

}  // namespace pimoe
