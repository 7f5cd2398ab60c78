#include "data/corpus_facts.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>

#include "base/work_progress.h"
#include "data/loss_mask.h"
#include "data/token_file.h"

namespace pimoe {
namespace {

constexpr int64_t kBlockTokens = 1 << 16;
constexpr std::string_view kValidationEnding = "-validation";

void for_each_block(const TokenFile& corpus, const std::function<void(int64_t begin, const std::vector<int64_t>& ids)>& take) {
  std::vector<int64_t> ids;
  for (int64_t begin = 0; begin < corpus.token_count(); begin += kBlockTokens) {
    ids.resize(static_cast<size_t>(std::min(kBlockTokens, corpus.token_count() - begin)));
    corpus.read(begin, static_cast<int64_t>(ids.size()), ids.data());
    take(begin, ids);
    count_work(static_cast<int64_t>(ids.size()));
  }
}

}  // namespace

int64_t UnigramCounts::largest_id() const {
  int64_t largest = -1;
  for (int64_t id = kTableSize - 1; id >= 0 && largest < 0; --id) {
    if (table_[static_cast<size_t>(id)] > 0) largest = id;
  }
  for (const auto& [id, count] : others_) largest = std::max(largest, id);
  return largest;
}

double UnigramCounts::entropy() const {
  double total = 0;
  double weighted_logs = 0;
  const auto add_count = [&](int64_t count) {
    if (count == 0) return;
    total += static_cast<double>(count);
    weighted_logs += static_cast<double>(count) * std::log(static_cast<double>(count));
  };
  for (const int64_t count : table_) add_count(count);
  for (const auto& [id, count] : others_) add_count(count);
  return total > 0 ? std::log(total) - weighted_logs / total : 0.0;
}

CorpusFacts inspect_corpus(const std::filesystem::path& prefix) {
  const TokenFile corpus(prefix);
  UnigramCounts counts;
  for_each_block(corpus, [&](int64_t, const std::vector<int64_t>& ids) {
    for (const int64_t id : ids) counts.add(id);
  });
  CorpusFacts facts;
  facts.documents = corpus.document_count();
  facts.tokens = corpus.token_count();
  facts.learned = LossMask::is_beside(prefix) ? LossMask(corpus).learned() : facts.tokens;
  facts.unigram_entropy = counts.entropy();
  facts.largest_id = counts.largest_id();
  facts.dtype = corpus.dtype_name();
  return facts;
}

void verify_corpus(const std::filesystem::path& prefix, int64_t vocabulary) {
  const TokenFile corpus(prefix);
  for_each_block(corpus, [&](int64_t begin, const std::vector<int64_t>& ids) {
    corpus.require_ids_below(vocabulary, begin, ids.data(), static_cast<int64_t>(ids.size()));
  });
  if (LossMask::is_beside(prefix)) LossMask(corpus).verify();
}

std::filesystem::path tokenizer_beside(const std::filesystem::path& prefix) {
  std::string name = prefix.string();
  std::error_code ignored;
  if (std::filesystem::is_regular_file(name + ".model", ignored)) return name + ".model";
  if (!name.ends_with(kValidationEnding)) return {};
  name.resize(name.size() - kValidationEnding.size());
  return std::filesystem::is_regular_file(name + ".model", ignored) ? name + ".model" : "";
}

}  // namespace pimoe
