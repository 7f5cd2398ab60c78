#pragma once

#include "data/data_config.h"
#include "parallel/communicator.h"

#include <cstdint>
#include <map>
#include <string>

namespace pimoe {

/// What tells a corpus or tokenizer from another one of the same name: counters of a checkpoint, "data.train.tokens", "data.train.fingerprint" (of a
/// blend's corpora "data.train[0].tokens" and so on), the same of data.validation, and "data.tokenizer.fingerprint". Those of files that are not
/// configured are missing.
using DataFacts = std::map<std::string, int64_t>;

/// @throws DataError, IoError  @cost reads each PREFIX.idx once for its structure, at most 32 MiB of each corpus, and the tokenizer
DataFacts data_facts(const DataConfig& data);

/// The same as rank 0 sees it, on every rank: counters of a checkpoint must agree. Collective.
/// @param looks  whether this rank compares the files that it sees with rank 0's: one of each node, which may have copies of its own
/// @throws DataError naming what differs, and the rank: the same on every rank
DataFacts data_facts_of_rank_0(const DataConfig& data, const HostCommunicator& ranks, bool looks);

/// @returns "data.train", or "data.train[1]" for corpus 1 of a blend of `size`.
std::string training_key(size_t index, size_t size);

/// Whether a counter of a checkpoint is one of these.
bool is_data_fact(const std::string& counter);

/// What the facts say of the files of one key ("data.train") then and now.
enum class DataChange { kUnknown, kNone, kOtherNumber, kOtherContent };
DataChange change_of(const std::string& key, const DataFacts& then, const DataFacts& now);
/// @returns the tokens of a key's corpus. REQUIRES that the facts have them
int64_t tokens_in(const std::string& key, const DataFacts& facts);

}  // namespace pimoe
