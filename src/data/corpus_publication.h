#pragma once

#include "base/log.h"
#include "data/corpus_builder.h"

#include <filesystem>
#include <string>

namespace pimoe {

/// Gives a corpus that is whole its names: training.bin, .idx, validation.bin and .idx of `folder`, where they are there, become PREFIX.bin and so on, PREFIX.idx
/// last. What an earlier build left under names that this one does not write is renamed to NAME.withdrawn. Whoever is killed here does the rest at the next
/// call: what has moved is passed over.
/// @param model  the content of the tokenizer that was trained; "" where one was given
/// @throws IoError
void publish_corpus(const std::filesystem::path& folder, const CorpusOptions& options, const std::string& model, Logger& log);

/// Renames what an earlier build left under a name that this build's PREFIX owns and does not write: ids of another tokenizer, or a tokenizer
/// of other ids, would be taken for this corpus'. Renamed, not removed: it may be a user's own.
/// @param ending  ".model"
void withdraw_earlier(const CorpusOptions& options, const char* ending, Logger& log);

}  // namespace pimoe
