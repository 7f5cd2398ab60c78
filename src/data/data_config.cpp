#include "data/data_config.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/number_text.h"
#include "base/text.h"
#include "data/blend_order.h"

namespace pimoe {

void BlendedCorpus::fields(FieldVisitor& visit) {
  visit.text("prefix", prefix, "PREFIX of a training corpus");
  visit.number("weight", weight, {.above = 0.0}, "of its samples; over the sum of all weights its share");
}

std::vector<BlendedCorpus> DataConfig::training() const { return train.empty() ? blend : std::vector<BlendedCorpus>{{.prefix = train}}; }

void DataConfig::validate(Violations& violations) const {
  if (blend.size() > BlendOrder::kMostCorpora) {
    violations.add("data.train", concat("(", blend.size(), " corpora) must have at most ", BlendOrder::kMostCorpora));
  }
  double most = 0.0;
  for (const BlendedCorpus& each : blend) most = std::max(most, each.weight);
  double sum = 0.0;
  for (const BlendedCorpus& each : blend) sum += each.weight / most;  // a sum of the largest numbers is no infinity then
  std::map<std::filesystem::path, size_t> earlier;
  for (size_t i = 0; i < blend.size(); ++i) {
    const std::string key = concat("data.train[", i, "]");
    const auto [found, is_new] = earlier.emplace(std::filesystem::path(blend[i].prefix).lexically_normal(), i);
    if (blend[i].prefix.empty()) {
      violations.add(key + ".prefix", "must name a corpus: the PREFIX of `pimoe data build --output PREFIX`");
    } else if (!is_new) {
      violations.add(key + ".prefix",
                     concat("(", blend[i].prefix, ") is data.train[", found->second, "] already: give that one the sum of both weights"));
    }
    if (blend[i].weight / most < sum / static_cast<double>(BlendOrder::kLongestPeriod)) {
      violations.add(key + ".weight", concat("(", shortest(blend[i].weight), ") must be at least a millionth of the sum of all weights"));
    }
  }
}

void DataConfig::fields(FieldVisitor& visit) {
  visit.text_or_list("train", train, blend,
                     "PREFIX of the training corpus, PREFIX.bin and PREFIX.idx; or a blend, [{prefix: PREFIX, weight: 1}, ...]");
  visit.text("validation", validation, "PREFIX of the validation corpus; empty for none");
  visit.text("tokenizer", tokenizer, "SentencePiece model or tokenizer.json of the corpus; empty for none");
}

}  // namespace pimoe
