#pragma once

#include "data/corpus_builder.h"
#include "data/corpus_sink.h"
#include "data/documents.h"
#include "data/tokenizer.h"

#include <cstddef>
#include <cstdint>
#include <functional>

namespace pimoe {

/// How far reading has come: number of the file, bytes of it that were read.
using ReadProgress = std::function<void(size_t file, int64_t position)>;

/// Reads conversations of .jsonl files, a line each (conversation.h), and writes each as one document with its marks of what is learned.
/// A line that is none, or whose tokens are more than options.chat->sequence_length + 1, is refused, or left out and reported.
/// @param threads  that render and encode; the result does not depend on them
/// @returns lines that were left out
/// @throws DataError naming file and line; what the chat template is
int64_t encode_conversations(const InputFiles& input, const CorpusOptions& options, const Tokenizer& tokenizer, size_t threads,
                             CorpusSink& sink, const ReadProgress& progress, Logger& log);

}  // namespace pimoe
