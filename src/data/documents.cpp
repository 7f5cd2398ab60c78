#include "data/documents.h"

#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/errors.h"
#include "base/random.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/byte_source.h"
#include "data/input_stream.h"
#include "data/tokenizer.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPartBytes = 1 << 20;
constexpr size_t kFirstLookBytes = 8 << 10;
constexpr int64_t kWindowBytes = 8 << 10;
constexpr size_t kSampleLineBytes = 4 << 10;

bool matches_any(const std::string& name, const std::vector<std::string>& patterns) {
  if (patterns.empty()) return true;
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0; });
}

/// @returns the regular files of a folder, sorted; links to folders are not entered.
std::vector<fs::path> walk(const fs::path& folder, const std::vector<std::string>& include) {
  std::vector<fs::path> paths;
  std::error_code refused;
  for (auto entry = fs::recursive_directory_iterator(folder, refused); !refused && entry != fs::recursive_directory_iterator();
       entry.increment(refused)) {
    std::error_code broken_link;
    if (entry->is_regular_file(broken_link) && matches_any(entry->path().filename().string(), include)) paths.push_back(entry->path());
  }
  if (refused) throw IoError(concat("cannot list ", folder.string(), ": ", refused.message()), refused.value());
  std::sort(paths.begin(), paths.end());
  return paths;
}

/// @returns why a file is passed over; null for one to read. A look at the first bytes spares the sampling of, say, libraries among
/// sources; the whole of a file is checked when it is read.
const char* reason_to_skip(const InputFile& file) {
  if (file.bytes == 0) return "is empty";
  if (file.is_jsonl) return nullptr;
  std::string start;
  InputStream(file.path).append(start, kFirstLookBytes);
  if (start.size() == kFirstLookBytes) start.resize(character_boundary(start, start.size() - 1));
  return is_text(start) ? nullptr : "is binary";
}

void hand_out_document(std::string_view text, int64_t file_position, const ReadPoint& after, const TakePart& take) {
  while (text.size() > kPartBytes) {
    const size_t end = Tokenizer::cut_point(text, kPartBytes);
    take({text.substr(0, end), false, file_position, std::nullopt});
    text.remove_prefix(end);
  }
  take({text, true, file_position, after});
}

/// Calls `take` with the file's blocks from an offset on, cut where the tokenizer is not hurt, until it returns false.
void for_each_block(const InputFile& file, int64_t offset,
                    const std::function<bool(std::string_view block, bool is_last, int64_t file_position)>& take) {
  // One byte more than is taken, so that the last block is known to be the last.
  const size_t wanted = (file.is_compressed ? kPartBytes : std::min(kPartBytes, static_cast<size_t>(file.bytes))) + 1;
  InputStream stream(file.path);
  if (offset > 0) stream.skip_to(offset, 0);
  std::string block;
  while (true) {
    stream.append(block, wanted - block.size());
    const bool is_last = block.size() <= kPartBytes;
    const size_t end = is_last ? block.size() : Tokenizer::cut_point(block, kPartBytes);
    if (!take(std::string_view(block).substr(0, end), is_last, stream.file_position()) || is_last) return;
    block.erase(0, end);
  }
}

/// @returns the text of a file's beginning without the byte order mark that some editors write there, which is none of the text
std::string_view without_mark(std::string_view beginning) {
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  return beginning.starts_with(kMark) ? beginning.substr(kMark.size()) : beginning;
}

/// @param position  of the block in its file
std::optional<NotText> complaint_about(std::string_view block, int64_t position) {
  const size_t good = text_prefix(block);
  if (good == block.size()) return std::nullopt;
  return NotText{position + static_cast<int64_t>(good), block[good] == '\0' ? "a NUL" : "no UTF-8"};
}

std::optional<NotText> read_text_document(const InputFile& file, const TakePart& take, const ReadPoint& from) {
  std::optional<NotText> complaint;
  int64_t position = 0;
  const bool is_one_block = !file.is_compressed && file.bytes <= static_cast<int64_t>(kPartBytes);
  if (!is_one_block && from.offset == 0) {
    // Read twice, so that nothing of a file that turns out binary at its end has been handed out.
    for_each_block(file, 0, [&](std::string_view block, bool, int64_t) {
      complaint = complaint_about(block, position);
      position += static_cast<int64_t>(block.size());
      return !complaint;
    });
    if (complaint) return complaint;
  }
  int64_t end = from.offset;
  for_each_block(file, from.offset, [&](std::string_view block, bool is_last, int64_t file_position) {
    if (is_one_block) complaint = complaint_about(block, 0);
    const std::string_view text = end == 0 ? without_mark(block) : block;
    end += static_cast<int64_t>(block.size());
    if (!complaint) take({text, is_last, file_position, ReadPoint{end, 0, !is_last}});
    return !complaint;
  });
  return complaint;
}

struct LineText {
  std::string text;
  std::string complaint;  ///< what is wrong with the line; empty for a good one
};

LineText text_of_line(const std::string& line, const std::string& key) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return {"", "the line is no JSON"};
  if (!json.is_object()) return {"", concat("the line is a JSON ", json.type_name(), ", not an object")};
  const auto member = json.find(key);
  if (member == json.end()) {
    std::vector<std::string> keys;
    for (const auto& item : json.items()) keys.push_back(item.key());
    const std::string nearest = nearest_name(key, keys);
    return {"", concat("the line has no key \"", key, "\" but ", keys.empty() ? "none at all" : join(keys, ", "),
                       nearest.empty() ? "" : concat("; did you mean ", nearest, "?"))};
  }
  if (!member->is_string()) return {"", concat("\"", key, "\" is a ", member->type_name(), ", not a string")};
  return {member->get<std::string>(), ""};
}

bool is_blank(const std::string& line) { return line.find_first_not_of(" \t\r") == std::string::npos; }

void read_jsonl(const InputFile& file, const std::string& text_key, const TakePart& take, const ReadPoint& from) {
  InputStream stream(file.path);
  if (from.offset > 0) stream.skip_to(from.offset, from.line);
  std::string line;
  while (stream.read_line(line)) {
    const LineText parsed = is_blank(line) ? LineText() : text_of_line(line, text_key);
    if (!parsed.complaint.empty()) throw DataError(concat(file.path.string(), ":", stream.line_number(), ": ", parsed.complaint));
    hand_out_document(parsed.text, file.is_compressed ? stream.file_position() : stream.line_end(),
                      {stream.line_end(), stream.line_number(), false}, take);
  }
}

/// Collects lines until there is enough text.
class LineSample {
 public:
  explicit LineSample(int64_t limit_bytes) : bytes_left_(limit_bytes) {}

  bool is_full() const { return bytes_left_ <= 0; }

  void add(std::string_view text) {
    while (!text.empty() && !is_full()) {
      const size_t newline = std::min(text.find('\n'), text.size());
      add_line(text.substr(0, newline));
      text.remove_prefix(std::min(newline + 1, text.size()));
    }
  }

  std::vector<std::string> take() { return std::move(lines_); }

 private:
  void add_line(std::string_view line) {
    while (!line.empty() && !is_full()) {
      const std::string_view part = line.substr(0, Tokenizer::cut_point(line, kSampleLineBytes));
      lines_.emplace_back(part);
      bytes_left_ -= static_cast<int64_t>(part.size());
      line.remove_prefix(part.size());
    }
  }

  int64_t bytes_left_;
  std::vector<std::string> lines_;
};

/// Adds the lines of bytes [begin, end) of a text file; lines that the borders cut are left out where whole ones remain.
void sample_text(const InputFile& file, int64_t begin, int64_t end, LineSample& sample) {
  std::string bytes;
  InputStream(file.path, begin).append(bytes, static_cast<size_t>(end - begin));
  std::string_view window = bytes;
  if (begin > 0) {
    const size_t newline = window.find('\n');
    window.remove_prefix(newline != std::string_view::npos ? newline + 1 : leading_continuations(window));
  }
  if (end < file.bytes && !window.empty()) {
    const size_t newline = window.rfind('\n');
    window = window.substr(0, newline != std::string_view::npos ? newline : character_boundary(window, window.size() - 1));
  }
  if (is_text(window)) sample.add(begin == 0 ? without_mark(window) : window);
}

/// Adds the texts of the .jsonl lines that begin in bytes [begin, end). A bad line is passed over: the reading proper names it.
void sample_jsonl(const InputFile& file, const std::string& text_key, int64_t begin, int64_t end, LineSample& sample) {
  // From the byte before: where that is a newline, the line at `begin` is whole.
  InputStream stream(file.path, std::max<int64_t>(begin - 1, 0));
  std::string line;
  if (begin > 0 && !stream.read_line(line)) return;
  while (stream.line_end() < end && !sample.is_full() && stream.read_line(line)) sample.add(text_of_line(line, text_key).text);
}

/// Adds text from the beginning of a compressed file.
void sample_beginning(const InputFile& file, const std::string& text_key, int64_t bytes, LineSample& sample) {
  InputStream stream(file.path);
  if (file.is_jsonl) {
    std::string line;
    while (stream.line_end() < bytes && !sample.is_full() && stream.read_line(line)) sample.add(text_of_line(line, text_key).text);
    return;
  }
  std::string text;
  stream.append(text, static_cast<size_t>(bytes));
  text.resize(character_boundary(text, text.size() > 0 ? text.size() - 1 : 0));
  if (is_text(text)) sample.add(without_mark(text));
}

}  // namespace

InputFile input_file(const fs::path& path, int64_t bytes) {
  const fs::path inner = is_compressed(path) ? path.stem() : path.filename();
  const bool is_jsonl = inner.extension() == ".jsonl";
  return {path, bytes, is_jsonl, is_compressed(path)};
}

InputFiles find_input(const std::vector<fs::path>& inputs, const std::vector<std::string>& include, Logger& log) {
  InputFiles found;
  const auto consider = [&](const fs::path& path, bool is_named) {
    std::error_code refused;
    const auto bytes = static_cast<int64_t>(fs::file_size(path, refused));
    if (refused) throw IoError(concat("cannot read ", path.string(), ": ", refused.message()), refused.value());
    const InputFile file = input_file(path, bytes);
    if (const char* reason = reason_to_skip(file)) {
      ++found.skipped;
      const std::string line = concat("skipped: ", path.string(), " ", reason);
      is_named ? log.warning(line) : log.debug(line);
      return;
    }
    found.bytes += file.bytes;
    found.files.push_back(file);
  };
  for (const fs::path& input : inputs) {
    std::error_code ignored;
    if (fs::is_directory(input, ignored)) {
      for (const fs::path& path : walk(input, include)) consider(path, false);
    } else if (fs::is_regular_file(input, ignored)) {
      consider(input, true);
    } else {
      throw DataError(concat("input ", input.string(), " is neither a file nor a folder"));
    }
  }
  return found;
}

std::optional<NotText> read_documents(const InputFile& file, const std::string& text_key, const TakePart& take, const ReadPoint& from) {
  if (!file.is_jsonl) return read_text_document(file, take, from);
  read_jsonl(file, text_key, take, from);
  return std::nullopt;
}

std::vector<std::string> sample_lines_of(const InputFiles& input, const std::string& text_key, int64_t sample_bytes, uint64_t seed) {
  // The input seen as one stretch of bytes; a window is cut where files meet.
  std::vector<int64_t> file_begins = {0};
  for (const InputFile& file : input.files) file_begins.push_back(file_begins.back() + file.bytes);
  LineSample sample(sample_bytes);
  std::map<const InputFile*, int64_t> of_compressed;  // bytes that windows fell on; in the input's order, for the files lie in one array
  const auto sample_window = [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const auto next = std::upper_bound(file_begins.begin(), file_begins.end(), begin);
      const InputFile& file = input.files[static_cast<size_t>(next - file_begins.begin()) - 1];
      const int64_t file_begin = *(next - 1);
      const int64_t part_end = std::min(end, *next);
      if (file.is_compressed) {
        of_compressed[&file] += part_end - begin;
      } else if (file.is_jsonl) {
        sample_jsonl(file, text_key, begin - file_begin, part_end - file_begin, sample);
      } else {
        sample_text(file, begin - file_begin, part_end - file_begin, sample);
      }
      begin = part_end;
    }
  };
  if (input.bytes <= sample_bytes) {
    sample_window(0, input.bytes);
    // All of the text is wanted, and nobody knows how much a compressed file has.
    for (const auto& [file, bytes] : of_compressed) sample_beginning(*file, text_key, sample_bytes, sample);
    return sample.take();
  }
  const int64_t windows = std::max<int64_t>(1, sample_bytes / kWindowBytes);
  const double stretch = static_cast<double>(input.bytes) / static_cast<double>(windows);
  const double room = std::max(0.0, stretch - static_cast<double>(kWindowBytes));
  const uint64_t key = named_key(seed, "data.tokenizer_sample");
  for (int64_t window = 0; window < windows; ++window) {
    const double place = static_cast<double>(window) * stretch + room * random_uniform(key, static_cast<uint64_t>(window));
    const auto begin = static_cast<int64_t>(place);
    sample_window(begin, std::min(input.bytes, begin + kWindowBytes));
  }
  for (const auto& [file, bytes] : of_compressed) sample_beginning(*file, text_key, bytes, sample);
  return sample.take();
}

}  // namespace pimoe
