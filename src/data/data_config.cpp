#include "data/data_config.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>

#include "base/number_text.h"
#include "base/text.h"
#include "data/blend_order.h"

namespace pimoe {

const char* packing_name(Packing packing) {
  constexpr std::array kNames = {"auto", "stream", "packed", "padded"};
  return kNames[static_cast<size_t>(packing)];
}

const char* loss_name(LossTokens loss) {
  constexpr std::array kNames = {"auto", "all", "masked"};
  return kNames[static_cast<size_t>(loss)];
}

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
  visit.flag("document_mask", document_mask,
             "a token attends to its own document alone, with positions counted from its beginning; a document's first token is no target");
  visit.text("chat_template", chat_template, "Jinja template of `pimoe generate --chat`; empty: the one beside the tokenizer");
  visit.choice(
      "packing", packing,
      {{packing_name(Packing::kAuto), Packing::kAuto},
       {packing_name(Packing::kStream), Packing::kStream},
       {packing_name(Packing::kPacked), Packing::kPacked},
       {packing_name(Packing::kPadded), Packing::kPadded}},
      "rows of a batch: one stream of tokens, cut (stream); whole documents, several to a row (packed) or one (padded); auto: packed "
      "for a corpus with a loss mask, else stream");
  visit.choice(
      "loss", loss,
      {{loss_name(LossTokens::kAuto), LossTokens::kAuto},
       {loss_name(LossTokens::kAll), LossTokens::kAll},
       {loss_name(LossTokens::kMasked), LossTokens::kMasked}},
      "tokens whose prediction counts: all, or those of the corpus' loss mask (PREFIX.loss_mask); auto: masked where there is one");
}

}  // namespace pimoe
