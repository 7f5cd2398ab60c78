#pragma once

#include "base/log.h"
#include "data/corpus_facts.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace pimoe {

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
  int threads = 0;             ///< that encode; 0: one for each core. The output does not depend on it
  double save_seconds = 10.0;  ///< between places that a build which was killed goes on from; 0: as often as can be
  bool restart = false;        ///< throw away what a build of this PREFIX left unfinished
};

/// Builds PREFIX.bin / .idx (and PREFIX-validation.*, PREFIX.model): one document for each file or .jsonl line, each ended by the
/// end-of-document token. Memory is bounded whatever the corpus; progress with rate and time left goes to `log`.
///
/// What is built lies in PREFIX.unfinished until it is whole (unfinished_build.h): a build that was killed, or that met a full disk, is gone on with by the
/// same call, to the same bytes. Input that is wrong leaves nothing.
///
/// What an earlier build left under PREFIX and this one does not write (PREFIX-validation.*, PREFIX.model) is renamed to NAME.withdrawn.
/// Nothing appears under the final names before all of it is on the disk; PREFIX.idx comes last. The same input and options give the same
/// bytes.
/// @throws DataError naming file and line for malformed .jsonl, a line without the key, no input at all, an empty result (also of the
///         validation part, where one is asked for); UsageError where another process builds there, or what is unfinished is of other input or
///         options; IoError for a full disk and the like.
CorpusFacts build_corpus(const CorpusOptions& options, Logger& log);

}  // namespace pimoe
