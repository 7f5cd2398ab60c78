#pragma once

#include "base/config_fields.h"

#include <string>
#include <vector>

namespace pimoe {

/// One corpus of `data.train` as a list.
struct BlendedCorpus {
  std::string prefix;   ///< PREFIX of PREFIX.bin / PREFIX.idx
  double weight = 1.0;  ///< of its samples, over the sum of all weights

  void fields(FieldVisitor& visit);
};

/// How a corpus becomes rows of model.sequence_length tokens.
enum class Packing {
  kAuto,    ///< kPacked where the corpus has a loss mask, else kStream
  kStream,  ///< one stream of tokens, cut every S
  kPacked,  ///< whole documents, several to a row
  kPadded,  ///< whole documents, each in a row of its own
};

/// Which tokens' predictions count.
enum class LossTokens {
  kAuto,    ///< kMasked where the corpus has a loss mask, else kAll
  kAll,     ///< every token's
  kMasked,  ///< those that the loss mask marks
};

/// As the configuration has them.
const char* packing_name(Packing packing);
const char* loss_name(LossTokens loss);

struct SampleChoice {
  Packing packing = Packing::kStream;
  LossTokens loss = LossTokens::kAll;
  bool document_mask = false;  ///< rows cut out of a stream say where documents begin, whose first tokens are no targets
};

/// `data:` in the configuration.
struct DataConfig {
  std::string train;                 ///< PREFIX of PREFIX.bin / PREFIX.idx; empty where `blend` is not
  std::vector<BlendedCorpus> blend;  ///< data.train as a list
  std::string validation;            ///< PREFIX, or empty for none
  std::string tokenizer;             ///< SentencePiece model or tokenizer.json, or empty
  std::string chat_template;         ///< for `generate --chat`; empty: the one beside the tokenizer
  Packing packing = Packing::kAuto;
  LossTokens loss = LossTokens::kAuto;
  bool document_mask = false;  ///< a token sees its own document alone

  /// @returns data.train as a list: one corpus is a blend of itself alone; empty for none.
  std::vector<BlendedCorpus> training() const;
  SampleChoice samples() const { return {packing, loss, document_mask}; }
  /// Adds what is wrong with the blend.
  void validate(Violations& violations) const;
  void fields(FieldVisitor& visit);
};

}  // namespace pimoe
