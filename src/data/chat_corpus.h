#pragma once

#include "data/corpus_builder.h"
#include "data/documents.h"
#include "data/tokenizer.h"

namespace pimoe {

/// Reads conversations of .jsonl files, a line each (conversation.h), and builds a corpus in which each is one document with its marks of what is learned.
/// A line that is none, or whose tokens are more than options.chat->sequence_length + 1, is refused, or left out and reported.
/// @param threads  that render and encode; the result does not depend on them
/// @throws DataError naming file and line; what the chat template is; IoError
CorpusFacts build_conversations(const InputFiles& input, const CorpusOptions& options, const Tokenizer& tokenizer, size_t threads,
                                Logger& log);

}  // namespace pimoe
