#include "train/data_facts.h"

#include "base/digest.h"
#include "base/file_io.h"
#include "base/text.h"
#include "data/loss_mask.h"
#include "data/token_file.h"

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

DataFacts data_facts_of_rank_0(const DataConfig& data, const HostCommunicator& ranks) {
  std::string told;
  if (ranks.rank() == 0) {
    for (const auto& [name, value] : data_facts(data)) told += concat(name, " ", value, "\n");
  }
  std::istringstream lines(ranks.broadcast_text(told, 0));
  DataFacts facts;
  std::string name;
  for (int64_t value = 0; lines >> name >> value;) facts[name] = value;
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
