#include "data/build_report.h"

#include "base/text.h"

#include <utility>

namespace pimoe {
namespace {

constexpr size_t kLossyLookBytes = 64 << 10;
constexpr int64_t kMostSkipLines = 10;

}  // namespace

BuildProgress::BuildProgress(const InputFiles& input, int64_t bytes_done, Logger& log)
    : input_(input), told_("encoding", WorkUnit::kBytes, log) {
  told_.begin_at(bytes_done);
  log.info(
      concat("encoding ", counted(static_cast<int64_t>(input.files.size()), "file"), ", ", human_bytes(static_cast<double>(input.bytes))));
}

void BuildProgress::at(size_t files_done, int64_t bytes_done, int64_t tokens) {
  told_.at(bytes_done, input_.bytes,
           concat(grouped(static_cast<int64_t>(files_done)), "/", grouped(static_cast<int64_t>(input_.files.size())), " files  ",
                  grouped(tokens), " tokens"));
}

LossWatch::LossWatch(const Tokenizer& tokenizer, std::filesystem::path model, bool has_looked, Logger& log)
    : tokenizer_(tokenizer), model_(std::move(model)), log_(log), has_looked_(has_looked) {}

void LossWatch::look(std::string_view text, const std::filesystem::path& file) {
  if (text.empty() || std::exchange(has_looked_, true)) return;
  const std::string_view start = text.substr(0, Tokenizer::cut_point(text, kLossyLookBytes));
  if (tokenizer_.decode(tokenizer_.encode(start)) == start) return;
  log_.warning(concat("tokenizer ", model_.string(), " does not give the text of ", file.string(),
                      " back as it was: it changes or drops some of it"));
}

void SkippedFiles::add(const std::filesystem::path& file, const NotText& reason) {
  const std::string line = concat("skipped: ", file.string(), " is binary: byte ", grouped(reason.position), " is ", reason.reason);
  ++count_ <= kMostSkipLines ? log_.warning(line) : log_.debug(line);
}

std::string SkippedFiles::text() const {
  if (count_ == 0) return "";
  return concat("; ", grouped(count_), count_ == 1 ? " file was" : " files were", " left out: not text to their end",
                count_ > kMostSkipLines ? concat(" (the first ", kMostSkipLines, " are named above)") : std::string());
}

}  // namespace pimoe
