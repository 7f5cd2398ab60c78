#include "data/corpus_builder.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "base/digest.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "data/build_report.h"
#include "data/chat_corpus.h"
#include "data/corpus_publication.h"
#include "data/corpus_sink.h"
#include "data/documents.h"
#include "data/ordered_work.h"
#include "data/token_file.h"
#include "data/token_file_format.h"
#include "data/tokenizer.h"
#include "data/unfinished_build.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kJobBytes = 1 << 20;

/// Where the reader is: what a build that goes on has to be told of its input.
struct InputPlace {
  size_t file = 0;
  ReadPoint place;
  int64_t input_bytes = 0;
  int64_t skipped = 0;
  int64_t empty = 0;
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
  std::optional<InputPlace> after;  ///< nothing where one cannot begin to read
};

struct EncodedPart {
  std::vector<int32_t> ids;
  bool ends_document = false;
};

struct EncodedJob {
  std::vector<EncodedPart> parts;
  std::optional<InputPlace> after;
};

EncodedJob encode(const Job& job, const Tokenizer& tokenizer) {
  EncodedJob encoded;
  encoded.after = job.after;
  encoded.parts.reserve(job.parts.size());
  for (const Job::Part& part : job.parts) {
    encoded.parts.push_back({tokenizer.encode(part.text, part.starts_document), part.ends_document});
    if (part.ends_document) encoded.parts.back().ids.push_back(tokenizer.end_of_document());
  }
  return encoded;
}

/// Saves, from time to time, how far a build is.
class Saver {
 public:
  Saver(UnfinishedBuild& build, CorpusSink& sink, double seconds) : build_(build), sink_(sink), seconds_(seconds) {}

  /// Everything before `place` has been written.
  void at(const InputPlace& place) {
    if (std::chrono::duration<double>(Clock::now() - last_).count() < seconds_) return;
    BuildState state = sink_.save();
    state.file = place.file;
    state.place = place.place;
    state.input_bytes = place.input_bytes;
    state.skipped = place.skipped;
    state.empty = place.empty;
    build_.save(state);
    last_ = Clock::now();
  }

 private:
  using Clock = std::chrono::steady_clock;
  UnfinishedBuild& build_;
  CorpusSink& sink_;
  double seconds_;
  Clock::time_point last_ = Clock::now();
};

/// Encodes jobs on several threads and writes them in their order. Twice as many jobs as threads are in memory, so that a slow one keeps none waiting.
class EncodingQueue {
 public:
  /// @param in_document  what is added first goes on with a document
  EncodingQueue(const Tokenizer& tokenizer, CorpusSink& sink, Saver& saver, size_t threads, bool in_document)
      : tokenizer_(tokenizer), sink_(sink), saver_(saver), most_jobs_(2 * threads + 1), at_document_start_(!in_document), work_(threads) {}

  /// @param after  where the reader is; nothing where one cannot begin to read  @returns false for a document without text, which is left out
  bool add(std::string_view text, bool ends_document, const std::optional<InputPlace>& after) {
    const bool starts_document = std::exchange(at_document_start_, ends_document);
    if (starts_document && ends_document && text.empty()) return false;
    job_.parts.push_back({std::string(text), starts_document, ends_document});
    job_.bytes += text.size();
    job_.after = after;
    if (job_.bytes >= kJobBytes) submit();
    return true;
  }

  void finish() {
    submit();
    while (work_.size() > 0) write_oldest();
  }

 private:
  void submit() {
    if (job_.parts.empty()) return;
    while (work_.size() >= most_jobs_ || work_.oldest_is_done()) write_oldest();
    auto job = std::make_shared<const Job>(std::exchange(job_, {}));
    work_.add([this, job = std::move(job)] { return encode(*job, tokenizer_); });
  }

  void write_oldest() {
    const EncodedJob encoded = work_.take_oldest();
    for (const EncodedPart& part : encoded.parts) sink_.add(part.ids, part.ends_document);
    if (encoded.after) saver_.at(*encoded.after);
  }

  const Tokenizer& tokenizer_;
  CorpusSink& sink_;
  Saver& saver_;
  size_t most_jobs_;
  Job job_;
  bool at_document_start_;
  OrderedWork<EncodedJob> work_;  ///< last: its threads end before what they use goes
};

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
  try {
    return train_tokenizer(lines, options.vocabulary);
  } catch (const DataError&) {  // the contract: too little text. Lines without any are passed over above, and then are the reason
    for (const InputFile& file : input.files) {
      if (file.is_jsonl) read_documents(file, options.text_key, [](const DocumentPart&) {});
    }
    throw;
  }
}

void require_input(const CorpusOptions& options, const InputFiles& input) {
  if (!input.files.empty()) return;
  std::vector<std::string> names;
  for (const fs::path& path : options.inputs) names.push_back(path.string());
  throw DataError(concat("no text in the input (", join(names, ", "), "): ", input.skipped, " files were binary or empty",
                         options.include.empty() ? "" : concat(", and no other matches --include ", join(options.include, ", "))));
}

/// Everything that the result depends on.
nlohmann::ordered_json identity(const CorpusOptions& options, const InputFiles& input, const Tokenizer* given) {
  nlohmann::ordered_json settings = {{"--text-key", options.text_key}, {"--validation", options.validation}, {"--seed", options.seed}};
  if (given == nullptr) {
    settings["--vocabulary"] = options.vocabulary;
    settings["--sample-bytes"] = options.sample_bytes;
  } else {
    const std::string model = read_file(options.tokenizer);
    settings["--tokenizer"] = sha256(model.data(), model.size());
    settings["end of document"] = given->end_of_document();  // files beside the tokenizer's say which
  }
  return {{"settings", settings}, {"inputs", identity_of(input)}};
}

void make_output_folder(const fs::path& output) {
  if (!output.has_parent_path()) return;
  std::error_code refused;
  fs::create_directories(output.parent_path(), refused);
  if (refused) throw IoError(concat("cannot make folder ", output.parent_path().string(), ": ", refused.message()), refused.value());
}

/// One build, from where an earlier one was.
class CorpusBuild {
 public:
  /// @param given  nothing: a tokenizer is trained
  CorpusBuild(const CorpusOptions& options, const InputFiles& input, std::optional<Tokenizer>& given, UnfinishedBuild& build, Logger& log)
      : options_(options), input_(input), tokenizer_(given), build_(build), log_(log), is_trained_(!given) {}

  CorpusFacts run() {
    if (is_trained_) train();
    BuildState state = build_.found().value_or(BuildState());
    if (!state.facts) state = encode_from(state);
    publish_corpus(build_.folder(), options_, content_, log_);
    build_.remove();
    return *state.facts;
  }

 private:
  fs::path model() const { return is_trained_ ? index_format::part_name(options_.output, ".model") : options_.tokenizer; }

  void train() {
    content_ = build_.model();
    if (content_.empty()) {
      content_ = trained_tokenizer(options_, input_, log_);
      build_.keep_model(content_);
    }
    tokenizer_.emplace(content_, model().string());
  }

  /// @returns the state of a build that lacks names alone, which is saved
  BuildState encode_from(const BuildState& from) {
    const bool goes_on = build_.found().has_value();
    int64_t bytes_before = 0;
    for (size_t i = 0; i < std::min(from.file, input_.files.size()); ++i) bytes_before += input_.files[i].bytes;
    const bool is_inside = from.file < input_.files.size() && !input_.files[from.file].is_compressed;
    const int64_t bytes_done = bytes_before + (is_inside ? from.place.offset : 0);
    if (goes_on) {
      log_.info(concat("going on with ", build_.folder().string(), ": ", human_bytes(static_cast<double>(bytes_done)), " of ",
                       human_bytes(static_cast<double>(input_.bytes)), " are encoded"));
    }
    CorpusFacts facts;
    facts.vocabulary = tokenizer_->vocabulary();
    facts.input_bytes = from.input_bytes;
    facts.empty_documents = from.empty;
    BuildProgress progress(input_, bytes_done, log_);
    CorpusSink sink(options_, facts.vocabulary, build_.folder(), from);
    Saver saver(build_, sink, options_.save_seconds);
    EncodingQueue queue(*tokenizer_, sink, saver, encoding_threads(options_), from.place.in_document);
    LossWatch loss_watch(*tokenizer_, model(), /*has_looked=*/goes_on, log_);
    SkippedFiles skipped(from.skipped, log_);
    for (size_t i = from.file; i < input_.files.size(); ++i) {
      const InputFile& file = input_.files[i];
      const auto take = [&](const DocumentPart& part) {
        loss_watch.look(part.text, file.path);
        std::optional<InputPlace> after;
        const bool ends_file = part.ends_document && !file.is_jsonl;
        if (part.after && ends_file) after = {i + 1, {}, facts.input_bytes + file.bytes, skipped.count(), facts.empty_documents};
        if (part.after && !ends_file) after = {i, *part.after, facts.input_bytes, skipped.count(), facts.empty_documents};
        if (!queue.add(part.text, part.ends_document, after)) ++facts.empty_documents;
        progress.at(i, bytes_before + part.file_position, sink.tokens());
      };
      const auto complaint = read_documents(file, options_.text_key, take, i == from.file ? from.place : ReadPoint());
      bytes_before += file.bytes;
      facts.input_bytes += complaint ? 0 : file.bytes;
      if (complaint) skipped.add(file.path, *complaint);
    }
    queue.finish();
    facts.skipped_files = input_.skipped + skipped.count();
    sink.complete();
    sink.describe(facts);
    BuildState whole = sink.save();
    whole.facts = facts;
    build_.save(whole);
    log_.info(concat("encoded ", human_bytes(static_cast<double>(facts.input_bytes)), " into ",
                     grouped(facts.tokens + facts.validation_tokens), " tokens in ", human_duration(progress.seconds_so_far()),
                     skipped.text()));
    return whole;
  }

  const CorpusOptions& options_;
  const InputFiles& input_;
  std::optional<Tokenizer>& tokenizer_;
  UnfinishedBuild& build_;
  Logger& log_;
  bool is_trained_;
  std::string content_;  ///< of the tokenizer that was trained
};

}  // namespace

CorpusFacts build_corpus(const CorpusOptions& options, Logger& log) {
  if (options.chat && options.tokenizer.empty()) {
    throw UsageError("conversations need --tokenizer, the one of the model that is to learn them");
  }
  const InputFiles input = find_input(options.inputs, options.include, log);
  require_input(options, input);
  make_output_folder(options.output);
  std::optional<Tokenizer> tokenizer;
  if (!options.tokenizer.empty()) tokenizer.emplace(options.tokenizer);
  if (options.chat) return build_conversations(input, options, *tokenizer, encoding_threads(options), log);
  UnfinishedBuild build(options.output, identity(options, input, tokenizer ? &*tokenizer : nullptr), options.restart, log);
  try {
    return CorpusBuild(options, input, tokenizer, build, log).run();
  } catch (const DataError&) {  // the same input would be wrong again
    build.remove();
    throw;
  } catch (const IoError& error) {
    if (!build.has_saved()) throw;
    throw IoError(concat(error.what(), ". What is built so far stays in ", build.folder().string(), ": the same command goes on with it"),
                  error.code());
  }
}

}  // namespace pimoe
