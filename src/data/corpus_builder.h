#pragma once

#include "base/log.h"
#include "data/corpus_facts.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// How conversations become a corpus.
struct ChatOptions {
  std::filesystem::path template_file;  ///< empty: the one beside the tokenizer
  bool no_template = false;             ///< a prompt and its answer, one behind the other
  int64_t sequence_length = 0;          ///< of the training that they are for: longer ones are bad lines; 0: any length
  bool skips_bad_lines = false;         ///< leaves them out and reports them, where else the first is an error
};

/// What `pimoe data build` does.
struct CorpusOptions {
  std::vector<std::filesystem::path> inputs;  ///< text files, folders (walked in sorted order), .jsonl
  std::vector<std::string> include;  ///< globs on file names in folders: "*.py"; empty: every regular file that is valid UTF-8 text
  std::filesystem::path output;      ///< PREFIX
  std::filesystem::path tokenizer;   ///< given model, or empty: one is trained and written to PREFIX.model
  int64_t vocabulary = 8192;         ///< of a trained model
  int64_t sample_bytes = 8 << 20;    ///< text that the tokenizer is trained on
  double validation = 0.0;           ///< share of documents (chosen by hash of position and seed) that go to PREFIX-validation
  std::string text_key = "text";     ///< of a .jsonl line
  uint64_t seed = 1234;
  int threads = 0;                       ///< that encode; 0: one for each core. The output does not depend on it
  double save_seconds = 10.0;            ///< between places that a build which was killed goes on from; 0: as often as can be
  bool restart = false;                  ///< throw away what a build of this PREFIX left unfinished
  std::optional<ChatOptions> chat = {};  ///< the lines of .jsonl are conversations (chat_corpus.h); needs a tokenizer
};

/// Builds PREFIX.bin / .idx (and PREFIX-validation.*, PREFIX.model): one document for each file or .jsonl line, each ended by the
/// end-of-document token. Memory is bounded whatever the corpus; progress with rate and time left goes to `log`.
///
/// What is built of texts lies in PREFIX.unfinished until it is whole (unfinished_build.h): a build that was killed, or that met a full disk, is gone on with
/// by the same call, to the same bytes. Input that is wrong leaves nothing.
///
/// Conversations have PREFIX.loss_mask too (loss_mask.h), and no end-of-document token but what their template writes. A build of them that was killed begins
/// again.
///
/// What an earlier build left under PREFIX and this one does not write (PREFIX-validation.*, PREFIX.model, PREFIX.loss_mask) is renamed to NAME.withdrawn.
/// Nothing appears under the final names before all of it is on the disk; PREFIX.idx comes last. The same input and options give the same
/// bytes.
/// @throws DataError naming file and line for malformed .jsonl, a line without the key, no input at all, an empty result (also of the
///         validation part, where one is asked for); UsageError where another process builds there, or what is unfinished is of other input or
///         options; IoError for a full disk and the like.
CorpusFacts build_corpus(const CorpusOptions& options, Logger& log);

}  // namespace pimoe
