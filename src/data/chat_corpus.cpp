#include "data/chat_corpus.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/text.h"
#include "data/build_report.h"
#include "data/chat_encoder.h"
#include "data/corpus_publication.h"
#include "data/corpus_sink.h"
#include "data/input_stream.h"
#include "data/ordered_work.h"

namespace pimoe {
namespace {

constexpr size_t kJobBytes = 256 << 10;  // each line is rendered several times, and its tokens merged
constexpr int64_t kMostNamedLines = 10;

struct Line {
  std::string place;  ///< file:line
  std::string text;
};

struct EncodedLine {
  std::string place;
  std::string complaint;  ///< empty for a good one
  EncodedChat chat;
};

EncodedLine encode_line(const Line& line, const ChatEncoder& encoder, int64_t sequence_length) try {
  EncodedLine encoded{.place = line.place, .complaint = {}, .chat = encoder.encode(read_conversation(line.text))};
  const auto tokens = static_cast<int64_t>(encoded.chat.ids.size());
  if (sequence_length > 0 && tokens > sequence_length + 1) {
    encoded.complaint = concat("the conversation has ", grouped(tokens), " tokens, and a sequence of ", grouped(sequence_length), " holds ",
                               grouped(sequence_length + 1), " (--sequence-length): its end would be cut off");
  }
  return encoded;
} catch (const DataError& error) {  // the contract: a bad line is its own affair
  return {.place = line.place, .complaint = error.what(), .chat = {}};
}

/// Refuses bad lines, or counts them and names the first.
class BadLines {
 public:
  BadLines(bool skips, Logger& log) : skips_(skips), log_(log) {}

  void add(const EncodedLine& line) {
    const std::string said = concat(line.place, ": ", line.complaint);
    if (!skips_) throw DataError(concat(said, ". --bad-lines skip leaves such lines out"));
    ++count_ <= kMostNamedLines ? log_.warning("left out: " + said) : log_.debug("left out: " + said);
  }

  int64_t count() const { return count_; }

 private:
  bool skips_;
  Logger& log_;
  int64_t count_ = 0;
};

/// Counts the lines that are left out.
void encode_conversations(const InputFiles& input, const CorpusOptions& options, const Tokenizer& tokenizer, size_t threads,
                          CorpusSink& sink, BuildProgress& progress, Logger& log, CorpusFacts& facts) {
  const ChatOptions& chat = *options.chat;
  std::optional<ChatTemplate> chat_template;
  if (!chat.no_template) {
    chat_template.emplace(find_chat_template(options.tokenizer, chat.template_file, tokenizer.piece(tokenizer.end_of_document())));
    log.info(concat("chat template ", chat_template->name(),
                    chat_template->has_generation_blocks() ? ": it marks what the assistant learns"
                                                           : ": the assistant learns each answer and its end of turn"));
  }
  const ChatEncoder encoder(tokenizer, chat_template ? &*chat_template : nullptr);
  BadLines bad(chat.skips_bad_lines, log);
  using Lines = std::vector<Line>;
  OrderedWork<std::vector<EncodedLine>> work(threads);
  const auto take_oldest = [&] {
    for (const EncodedLine& line : work.take_oldest()) {
      if (line.complaint.empty()) {
        sink.add(line.chat.ids, /*ends_document=*/true, line.chat.learned);
      } else {
        bad.add(line);
      }
    }
  };
  Lines lines;
  size_t bytes = 0;
  const auto submit = [&] {
    bytes = 0;
    if (lines.empty()) return;
    while (work.size() > 2 * threads || work.oldest_is_done()) take_oldest();
    work.add([&encoder, &chat, given = std::exchange(lines, {})] {
      std::vector<EncodedLine> encoded;
      for (const Line& line : given) encoded.push_back(encode_line(line, encoder, chat.sequence_length));
      return encoded;
    });
  };
  int64_t bytes_before = 0;
  for (size_t i = 0; i < input.files.size(); ++i) {
    const InputFile& file = input.files[i];
    if (!file.is_jsonl)
      throw DataError(concat(file.path.string(), " is no .jsonl: conversations are read of .jsonl files alone, a line each"));
    InputStream stream(file.path);
    std::string line;
    while (stream.read_line(line)) {
      if (line.find_first_not_of(" \t\r") == std::string::npos) {
        ++facts.empty_documents;
        continue;
      }
      bytes += line.size();
      lines.push_back({concat(file.path.string(), ":", stream.line_number()), std::move(line)});
      if (bytes >= kJobBytes) submit();
      progress.at(i, bytes_before + stream.file_position(), sink.tokens());
    }
    bytes_before += file.bytes;
  }
  submit();
  while (work.size() > 0) take_oldest();
  facts.skipped_lines = bad.count();
}

}  // namespace

CorpusFacts build_conversations(const InputFiles& input, const CorpusOptions& options, const Tokenizer& tokenizer, size_t threads,
                                Logger& log) {
  CorpusFacts facts;
  facts.vocabulary = tokenizer.vocabulary();
  facts.skipped_files = input.skipped;
  facts.input_bytes = input.bytes;
  BuildProgress progress(input, /*bytes_done=*/0, log);
  CorpusSink sink(options, facts.vocabulary);
  encode_conversations(input, options, tokenizer, threads, sink, progress, log, facts);
  sink.complete();
  sink.withdraw_older();
  if (options.validation == 0) {
    for (const char* ending : {"-validation.idx", "-validation.bin", "-validation.loss_mask"}) withdraw_earlier(options, ending, log);
  }
  withdraw_earlier(options, ".model", log);
  sink.finish();
  sink.describe(facts);
  log.info(concat("encoded ", human_bytes(static_cast<double>(facts.input_bytes)), " into ",
                  grouped(facts.tokens + facts.validation_tokens), " tokens in ", human_duration(progress.seconds_so_far())));
  return facts;
}

}  // namespace pimoe
