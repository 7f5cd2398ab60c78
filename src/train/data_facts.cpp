#include "train/data_facts.h"

#include "base/digest.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "data/loss_mask.h"
#include "data/token_file.h"
#include "parallel/agreement.h"

#include <optional>
#include <sstream>

namespace pimoe {
namespace {

constexpr const char* kPrefix = "data.";
constexpr const char* kTokens = ".tokens";
constexpr const char* kFingerprint = ".fingerprint";

void add_corpus(const std::string& key, const std::string& prefix, DataFacts& facts) {
  if (prefix.empty()) return;
  const TokenFile corpus(prefix);
  facts[key + kTokens] = corpus.token_count();
  std::string digest = corpus.sampled_digest();
  if (LossMask::is_beside(prefix)) digest = sha256((digest + LossMask(corpus).digest()).data(), 2 * digest.size());
  facts[key + kFingerprint] = fingerprint(digest);
}

std::optional<int64_t> fact(const DataFacts& facts, const std::string& name) {
  const auto found = facts.find(name);
  return found == facts.end() ? std::nullopt : std::optional(found->second);
}

/// What one rank sees and rank 0 does not: of numbers of tokens first, which say more. "": nothing
std::string first_difference(const DataFacts& of_rank_0, const DataFacts& here) {
  for (const bool of_numbers : {true, false}) {
    for (const auto& [name, value] : of_rank_0) {
      if (name.ends_with(kTokens) != of_numbers || here.at(name) == value) continue;
      return concat(name.substr(0, name.rfind('.')), ": ",
                    of_numbers ? concat(grouped(value), " tokens at rank 0, ", grouped(here.at(name)), " here")
                               : "other content at rank 0 than here");
    }
  }
  return "";
}

}  // namespace

DataFacts data_facts(const DataConfig& data) {
  DataFacts facts;
  const std::vector<BlendedCorpus> training = data.training();
  for (size_t i = 0; i < training.size(); ++i) add_corpus(training_key(i, training.size()), training[i].prefix, facts);
  add_corpus("data.validation", data.validation, facts);
  if (!data.tokenizer.empty()) {
    const MappedFile model(data.tokenizer);
    facts[concat("data.tokenizer", kFingerprint)] = fingerprint(sha256(model.data(), model.size()));
  }
  return facts;
}

DataFacts data_facts_of_rank_0(const DataConfig& data, const HostCommunicator& ranks, bool looks) {
  DataFacts here;
  std::string told;
  do_together(ranks, [&] {
    if (ranks.rank() == 0 || looks) here = data_facts(data);
    for (const auto& [name, value] : here) told += concat(name, " ", value, "\n");
  });
  std::istringstream lines(ranks.broadcast_text(told, 0));
  DataFacts facts;
  std::string name;
  for (int64_t value = 0; lines >> name >> value;) facts[name] = value;
  do_together(ranks, [&] {
    const std::string difference = looks ? first_difference(facts, here) : "";
    if (!difference.empty()) throw DataError(concat(difference, ": every node must see the same files, or whole copies of them"));
  });
  return facts;
}

std::string training_key(size_t index, size_t size) { return size == 1 ? "data.train" : concat("data.train[", index, "]"); }

bool is_data_fact(const std::string& counter) { return counter.starts_with(kPrefix); }

DataChange change_of(const std::string& key, const DataFacts& then, const DataFacts& now) {
  const auto was = fact(then, key + kFingerprint);
  const auto is = fact(now, key + kFingerprint);
  if (!was || !is) return DataChange::kUnknown;
  if (fact(then, key + kTokens) != fact(now, key + kTokens)) return DataChange::kOtherNumber;
  return was == is ? DataChange::kNone : DataChange::kOtherContent;
}

int64_t tokens_in(const std::string& key, const DataFacts& facts) { return facts.at(key + kTokens); }

}  // namespace pimoe
