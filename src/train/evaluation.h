#pragma once

/// What `pimoe evaluate` does: loss, perplexity and bits per byte of corpora.

#include "base/log.h"
#include "data/tokenizer.h"
#include "train/loaded_model.h"
#include "train/validation.h"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// A corpus under a name of its own.
struct NamedCorpus {
  std::string name;
  std::filesystem::path prefix;
};

/// What a model makes of one corpus, or of several together.
struct EvaluationRow {
  std::string name;
  std::string data;              ///< PREFIX; empty for several together
  double cross_entropy = 0.0;    ///< nats, of all tokens
  int64_t tokens = 0;            ///< that were predicted
  int64_t left_out = 0;          ///< tokens of the corpus that were not
  std::optional<int64_t> bytes;  ///< of the predicted tokens' text; nothing where no tokenizer tells

  double loss() const { return cross_entropy / static_cast<double>(tokens); }
  double perplexity() const;
  /// Nats of all tokens, those that end a document too, over the bytes of text; nothing where there are none or nobody knows.
  std::optional<double> bits_per_byte() const;
};

struct EvaluationReport {
  std::string checkpoint;
  int64_t step = 0;
  bool document_mask = false;  ///< attention stayed inside documents, whose first tokens are not among `tokens`
  std::vector<EvaluationRow> rows;

  /// All rows together: every token counts once.
  EvaluationRow total() const;
};

/// Evaluates corpora in order. Each is looked through first, on every rank alike: what is wrong with any of them is said before time is spent.
/// @param tokenizer  tells bytes; null: none
/// @throws DataError a corpus is missing, damaged, too short, or has an id beyond the model's vocabulary. Collective
EvaluationReport evaluate_corpora(const LoadedModel& loaded, const std::vector<NamedCorpus>& corpora, const ValidationPlan& plan,
                                  const Tokenizer* tokenizer, Logger& log);

nlohmann::ordered_json to_json(const EvaluationReport& report);
std::string to_text(const EvaluationReport& report);

/// Of "NAME=PREFIX" and "PREFIX", whose name is its last part: what stands before the first = is a name if it has no / and no corpus has the whole
/// as its prefix.
/// @throws UsageError where two have one name, or a part is empty
std::vector<NamedCorpus> named_corpora(const std::vector<std::string>& arguments);

}  // namespace pimoe
