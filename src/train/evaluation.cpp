#include "train/evaluation.h"

#include "base/errors.h"
#include "base/text.h"
#include "base/text_table.h"
#include "base/work_progress.h"
#include "data/document_starts.h"
#include "train/masked_documents.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

namespace pimoe {
namespace {

constexpr int64_t kChunk = 1 << 16;

/// Looks at every token that will be read.
/// @returns bytes of the targets' text; nothing without a tokenizer
/// @throws DataError for an id beyond the model's vocabulary, or the tokenizer's
std::optional<int64_t> look_through(const TokenFile& corpus, const ValidationPart& part, int64_t sequence_length,
                                    const ValidationPlan& plan, int64_t vocabulary, const Tokenizer* tokenizer, Logger& log) {
  std::vector<int64_t> bytes_of_id;
  for (int64_t id = 0; tokenizer != nullptr && id < tokenizer->vocabulary(); ++id) {
    bytes_of_id.push_back(static_cast<int64_t>(tokenizer->text(static_cast<int32_t>(id)).size()));
  }
  const auto known = static_cast<int64_t>(bytes_of_id.size());
  std::vector<int64_t> ids(kChunk);
  WorkProgress progress(concat("looking through ", corpus.prefix().string()), WorkUnit::kCount, log);
  int64_t bytes = 0;
  const auto add = [&](int64_t id, int64_t position) {
    if (id >= known) {
      throw DataError(
          concat(corpus.prefix().string(), ".bin: ", position >= 0 ? concat("the id at position ", position) : std::string("an id"), " (",
                 id, ") must be in [0, ", known,
                 "), the tokenizer's vocabulary: give --tokenizer FILE, the one that the corpus was built with, or --tokenizer none"));
    }
    bytes += bytes_of_id[static_cast<size_t>(id)];
  };
  if (const MaskedDocuments documents(corpus, sequence_length, plan); documents.exist()) {
    documents.for_each_target(vocabulary, [&](int64_t id) {
      if (tokenizer != nullptr) add(id, -1);
    });
    return tokenizer != nullptr ? std::optional(bytes) : std::nullopt;
  }
  std::optional<DocumentStarts> documents;
  if (plan.document_mask) documents.emplace(corpus);
  for (int64_t begin = 0; begin <= part.read; begin += kChunk) {
    const int64_t count = std::min(kChunk, part.read + 1 - begin);
    progress.at(begin, part.read, "tokens");
    corpus.read(begin, count, ids.data());
    corpus.require_ids_below(vocabulary, begin, ids.data(), count);
    if (tokenizer == nullptr) continue;
    std::vector<bool> is_target(static_cast<size_t>(count), true);
    if (begin == 0) is_target[0] = false;  // the first token is nobody's
    if (documents) {
      const int64_t before = std::max<int64_t>(0, begin - 1);  // a start at `begin` itself is told from the token before it
      for (const int64_t start : documents->inside(before, begin - before + count))
        is_target[static_cast<size_t>(before + start - begin)] = false;
    }
    for (int64_t at = 0; at < count; ++at) {
      if (is_target[static_cast<size_t>(at)]) add(ids[static_cast<size_t>(at)], begin + at);
    }
  }
  if (tokenizer == nullptr) return std::nullopt;
  return bytes;
}

std::string text_of(const std::optional<double>& value, int decimals) { return value ? fixed(*value, decimals) : "unknown"; }

nlohmann::ordered_json figures(const EvaluationRow& row) {
  nlohmann::ordered_json json = {{"loss", row.loss()}, {"perplexity", row.perplexity()}, {"tokens", row.tokens}};
  const std::optional<double> bits = row.bits_per_byte();
  json["bits_per_byte"] = bits ? nlohmann::ordered_json(*bits) : nullptr;
  json["bytes"] = row.bytes ? nlohmann::ordered_json(*row.bytes) : nullptr;
  json["tokens_left_out"] = row.left_out;
  return json;
}

}  // namespace

double EvaluationRow::perplexity() const { return std::exp(loss()); }

std::optional<double> EvaluationRow::bits_per_byte() const {
  if (!bytes || *bytes == 0) return std::nullopt;
  return cross_entropy / std::numbers::ln2 / static_cast<double>(*bytes);
}

EvaluationRow EvaluationReport::total() const {
  EvaluationRow all;
  all.name = "all";
  all.bytes = 0;
  for (const EvaluationRow& row : rows) {
    all.cross_entropy += row.cross_entropy;
    all.tokens += row.tokens;
    all.left_out += row.left_out;
    if (!row.bytes) all.bytes.reset();
    if (all.bytes) *all.bytes += *row.bytes;
  }
  return all;
}

EvaluationReport evaluate_corpora(const LoadedModel& loaded, const std::vector<NamedCorpus>& corpora, const ValidationPlan& plan,
                                  const Tokenizer* tokenizer, Logger& log) {
  const ModelConfig& model = loaded.model->config();
  EvaluationReport report{.checkpoint = loaded.folder.string(), .step = loaded.step, .document_mask = plan.document_mask, .rows = {}};
  std::vector<TokenFile> files;
  files.reserve(corpora.size());
  for (const NamedCorpus& corpus : corpora) {
    const TokenFile& file = files.emplace_back(corpus.prefix);
    const ValidationPart part(file, model.sequence_length, plan);
    report.rows.push_back({.name = corpus.name,
                           .data = corpus.prefix.string(),
                           .tokens = part.targets,
                           .left_out = part.left_out,
                           .bytes = look_through(file, part, model.sequence_length, plan, model.vocabulary, tokenizer, log)});
  }
  for (size_t index = 0; index < files.size(); ++index) {
    EvaluationRow& row = report.rows[index];
    WorkProgress progress(concat("evaluating ", row.name), WorkUnit::kCount, log);
    row.cross_entropy = cross_entropy_of(*loaded.model, files[index], plan, *loaded.mesh, [&](int64_t done, int64_t all) {
                          progress.at(done, all, "micro-steps");
                          return false;
                        }).value();
  }
  return report;
}

nlohmann::ordered_json to_json(const EvaluationReport& report) {
  nlohmann::ordered_json json = figures(report.total());
  json["checkpoint"] = report.checkpoint;
  json["step"] = report.step;
  json["document_mask"] = report.document_mask;
  json["domains"] = nlohmann::ordered_json::array();
  for (const EvaluationRow& row : report.rows) {
    nlohmann::ordered_json each = {{"name", row.name}, {"data", row.data}};
    each.update(figures(row));
    json["domains"].push_back(std::move(each));
  }
  return json;
}

std::string to_text(const EvaluationReport& report) {
  std::vector<EvaluationRow> rows = report.rows;
  if (rows.size() > 1) rows.push_back(report.total());
  TextTable lines = {{"corpus", "tokens", "loss", "perplexity", "bits per byte", "tokens left out"}};
  for (const EvaluationRow& row : rows) {
    lines.push_back({row.name, grouped(row.tokens), fixed(row.loss(), 4), fixed(row.perplexity(), 2), text_of(row.bits_per_byte(), 4),
                     grouped(row.left_out)});
  }
  return table_text(lines);
}

std::vector<NamedCorpus> named_corpora(const std::vector<std::string>& arguments) {
  std::vector<NamedCorpus> corpora;
  std::set<std::string> names;
  for (const std::string& argument : arguments) {
    const size_t equals = argument.find('=');
    std::error_code ignored;
    const bool is_prefix =
        equals == std::string::npos || argument.find('/') < equals || std::filesystem::exists(argument + ".idx", ignored);
    NamedCorpus corpus = is_prefix ? NamedCorpus{std::filesystem::path(argument).filename().string(), argument}
                                   : NamedCorpus{argument.substr(0, equals), argument.substr(equals + 1)};
    if (corpus.name.empty() || corpus.prefix.empty()) {
      throw UsageError(concat("--data ('", argument, "') must be PREFIX or NAME=PREFIX, of PREFIX.bin and PREFIX.idx"));
    }
    if (!names.insert(corpus.name).second) {
      throw UsageError(concat("--data: two corpora are called '", corpus.name, "': give them names, as in --data web=", argument));
    }
    corpora.push_back(std::move(corpus));
  }
  return corpora;
}

}  // namespace pimoe
