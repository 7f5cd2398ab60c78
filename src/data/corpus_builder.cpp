#include "data/corpus_builder.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "base/errors.h"
#include "base/file_io.h"
#include "base/random.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "data/chat_corpus.h"
#include "data/corpus_sink.h"
#include "data/documents.h"
#include "data/ordered_jobs.h"
#include "data/token_file.h"
#include "data/token_file_format.h"
#include "data/tokenizer.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kJobBytes = 1 << 20;
constexpr size_t kLossyLookBytes = 64 << 10;
constexpr int64_t kMostSkipLines = 10;

/// One line at the start, then how far, how fast, how long still.
class Progress {
 public:
  Progress(const InputFiles& input, Logger& log) : input_(input), told_("encoding", WorkUnit::kBytes, log) {
    log.info(
        concat("encoding ", grouped(static_cast<int64_t>(input.files.size())), " files, ", human_bytes(static_cast<double>(input.bytes))));
  }

  void at(size_t files_done, int64_t bytes_done, int64_t tokens) {
    told_.at(bytes_done, input_.bytes,
             concat(grouped(static_cast<int64_t>(files_done)), "/", grouped(static_cast<int64_t>(input_.files.size())), " files  ",
                    grouped(tokens), " tokens"));
  }

  double seconds_so_far() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  const InputFiles& input_;
  WorkProgress told_;
  Clock::time_point start_ = Clock::now();
};

/// Text that one thread encodes: parts of one or of several documents.
struct Job {
  struct Part {
    std::string text;
    bool starts_document = false;
    bool ends_document = false;
  };
  std::vector<Part> parts;
  size_t bytes = 0;
};

struct EncodedPart {
  std::vector<int32_t> ids;
  bool ends_document = false;
};

std::vector<EncodedPart> encode(const Job& job, const Tokenizer& tokenizer) {
  std::vector<EncodedPart> encoded;
  encoded.reserve(job.parts.size());
  for (const Job::Part& part : job.parts) {
    encoded.push_back({tokenizer.encode(part.text, part.starts_document), part.ends_document});
    if (part.ends_document) encoded.back().ids.push_back(tokenizer.end_of_document());
  }
  return encoded;
}

/// Encodes texts on several threads and writes them in their order.
class EncodingQueue {
 public:
  EncodingQueue(const Tokenizer& tokenizer, CorpusSink& sink, size_t threads)
      : jobs_(
            threads, [&tokenizer](const Job& job) { return encode(job, tokenizer); },
            [&sink](const std::vector<EncodedPart>& parts) {
              for (const EncodedPart& part : parts) sink.add(part.ids, part.ends_document);
            }) {}

  void add(std::string_view text, bool ends_document) {
    const bool starts_document = std::exchange(at_document_start_, ends_document);
    if (starts_document && ends_document && text.empty()) return;
    job_.parts.push_back({std::string(text), starts_document, ends_document});
    job_.bytes += text.size();
    if (job_.bytes >= kJobBytes) submit();
  }

  void finish() {
    submit();
    jobs_.finish();
  }

 private:
  void submit() {
    if (!job_.parts.empty()) jobs_.add(std::exchange(job_, {}));
  }

  Job job_;
  bool at_document_start_ = true;
  OrderedJobs<Job, std::vector<EncodedPart>> jobs_;
};

/// Warns, once, where a tokenizer made elsewhere loses something of the text.
class LossWatch {
 public:
  LossWatch(const Tokenizer& tokenizer, const fs::path& model, Logger& log) : tokenizer_(tokenizer), model_(model), log_(log) {}

  void look(std::string_view text, const fs::path& file) {
    if (std::exchange(has_looked_, true)) return;
    const std::string_view start = text.substr(0, Tokenizer::cut_point(text, kLossyLookBytes));
    if (tokenizer_.decode(tokenizer_.encode(start)) == start) return;
    log_.warning(concat("tokenizer ", model_.string(), " does not give the text of ", file.string(),
                        " back as it was: it changes or drops some of it"));
  }

 private:
  const Tokenizer& tokenizer_;
  const fs::path& model_;
  Logger& log_;
  bool has_looked_ = false;
};

/// Says which files with text at their start are no text further on, the first ten by name.
class SkippedFiles {
 public:
  explicit SkippedFiles(Logger& log) : log_(log) {}

  void add(const fs::path& file, const NotText& reason) {
    const std::string line = concat("skipped: ", file.string(), " is binary: byte ", grouped(reason.position), " is ", reason.reason);
    ++count_ <= kMostSkipLines ? log_.warning(line) : log_.debug(line);
  }

  int64_t count() const { return count_; }
  /// For the closing line; "" where nothing was skipped.
  std::string text() const {
    if (count_ == 0) return "";
    return concat("; ", grouped(count_), count_ == 1 ? " file was" : " files were", " left out: not text to their end",
                  count_ > kMostSkipLines ? concat(" (the first ", kMostSkipLines, " are named above)") : std::string());
  }

 private:
  Logger& log_;
  int64_t count_ = 0;
};

/// Renames what an earlier build left under a name that this build's PREFIX owns and does not write: ids of another tokenizer, or a tokenizer
/// of other ids, would be taken for this corpus'. Renamed, not removed: it may be a user's own.
void withdraw_earlier(const CorpusOptions& options, const char* ending, Logger& log) {
  const fs::path earlier = index_format::part_name(options.output, ending);
  std::error_code absent;
  if (!fs::exists(earlier, absent)) return;
  if (!options.tokenizer.empty() && fs::equivalent(earlier, options.tokenizer, absent)) return;
  fs::path withdrawn = earlier;
  withdrawn += ".withdrawn";
  rename_durably(earlier, withdrawn);
  log.warning(concat(earlier.string(), " is from an earlier build: it is ", withdrawn.filename().string(), " now"));
}

size_t encoding_threads(const CorpusOptions& options) {
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  return static_cast<size_t>(std::max(1, options.threads > 0 ? options.threads : cores));
}

std::string trained_tokenizer(const CorpusOptions& options, const InputFiles& input, Logger& log) {
  const std::vector<std::string> lines = sample_lines_of(input, options.text_key, options.sample_bytes, options.seed);
  int64_t bytes = 0;
  for (const std::string& line : lines) bytes += static_cast<int64_t>(line.size()) + 1;
  log.info(
      concat("training a tokenizer of ", grouped(options.vocabulary), " pieces on ", human_bytes(static_cast<double>(bytes)), " of text"));
  return train_tokenizer(lines, options.vocabulary);
}

void require_input(const CorpusOptions& options, const InputFiles& input) {
  if (!input.files.empty()) return;
  std::vector<std::string> names;
  for (const fs::path& path : options.inputs) names.push_back(path.string());
  throw DataError(concat("no text in the input (", join(names, ", "), "): ", input.skipped, " files were binary or empty",
                         options.include.empty() ? "" : concat(", and no other matches --include ", join(options.include, ", "))));
}

void make_output_folder(const fs::path& output) {
  if (!output.has_parent_path()) return;
  std::error_code refused;
  fs::create_directories(output.parent_path(), refused);
  if (refused) throw IoError(concat("cannot make folder ", output.parent_path().string(), ": ", refused.message()), refused.value());
}

void encode_texts(const InputFiles& input, const CorpusOptions& options, const Tokenizer& tokenizer, const fs::path& model,
                  CorpusSink& sink, SkippedFiles& skipped, Progress& progress, CorpusFacts& facts, Logger& log) {
  EncodingQueue queue(tokenizer, sink, encoding_threads(options));
  LossWatch loss_watch(tokenizer, model, log);
  int64_t bytes_before = 0;
  for (size_t i = 0; i < input.files.size(); ++i) {
    const InputFile& file = input.files[i];
    const auto complaint = read_documents(file, options.text_key, [&](const DocumentPart& part) {
      loss_watch.look(part.text, file.path);
      queue.add(part.text, part.ends_document);
      progress.at(i, bytes_before + part.file_position, sink.tokens());
    });
    bytes_before += file.bytes;
    facts.input_bytes += complaint ? 0 : file.bytes;
    if (complaint) skipped.add(file.path, *complaint);
  }
  queue.finish();
  facts.skipped_files += skipped.count();
}

}  // namespace

CorpusFacts build_corpus(const CorpusOptions& options, Logger& log) {
  if (options.chat && options.tokenizer.empty())
    throw UsageError("conversations need --tokenizer, the one of the model that is to learn them");
  const InputFiles input = find_input(options.inputs, options.include, log);
  require_input(options, input);
  make_output_folder(options.output);
  const bool is_trained = options.tokenizer.empty();
  const fs::path model = is_trained ? index_format::part_name(options.output, ".model") : options.tokenizer;
  const std::string content = is_trained ? trained_tokenizer(options, input, log) : std::string();
  const Tokenizer tokenizer = is_trained ? Tokenizer(content, model.string()) : Tokenizer(model);

  CorpusFacts facts;
  facts.vocabulary = tokenizer.vocabulary();
  facts.skipped_files = input.skipped;
  Progress progress(input, log);
  CorpusSink sink(options, facts.vocabulary);
  SkippedFiles skipped(log);
  if (options.chat) {
    facts.input_bytes = input.bytes;
    facts.skipped_lines = encode_conversations(
        input, options, tokenizer, encoding_threads(options), sink,
        [&, before = int64_t{0}, file = size_t{0}](size_t now, int64_t position) mutable {
          for (; file < now; ++file) before += input.files[file].bytes;
          progress.at(now, before + position, sink.tokens());
        },
        log);
  } else {
    encode_texts(input, options, tokenizer, model, sink, skipped, progress, facts, log);
  }
  sink.complete();
  sink.withdraw_older();
  if (options.validation == 0) {
    for (const char* ending : {"-validation.idx", "-validation.bin"}) withdraw_earlier(options, ending, log);
  }
  for (const char* ending : {".loss_mask", "-validation.loss_mask"}) {
    if (!options.chat || (options.validation == 0 && ending[0] == '-')) withdraw_earlier(options, ending, log);
  }
  if (!is_trained) withdraw_earlier(options, ".model", log);
  if (is_trained) replace_file(model, content);
  sink.finish();
  sink.describe(facts);
  log.info(concat("encoded ", human_bytes(static_cast<double>(facts.input_bytes)), " into ",
                  grouped(facts.tokens + facts.validation_tokens), " tokens in ", human_duration(progress.seconds_so_far()),
                  skipped.text()));
  return facts;
}

}  // namespace pimoe
