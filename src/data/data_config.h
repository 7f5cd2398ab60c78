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

/// `data:` in the configuration.
struct DataConfig {
  std::string train;                 ///< PREFIX of PREFIX.bin / PREFIX.idx; empty where `blend` is not
  std::vector<BlendedCorpus> blend;  ///< data.train as a list
  std::string validation;            ///< PREFIX, or empty for none
  std::string tokenizer;             ///< SentencePiece model or tokenizer.json, or empty
  bool document_mask = false;        ///< a token sees its own document alone

  /// @returns data.train as a list: one corpus is a blend of itself alone; empty for none.
  std::vector<BlendedCorpus> training() const;
  /// Adds what is wrong with the blend.
  void validate(Violations& violations) const;
  void fields(FieldVisitor& visit);
};

}  // namespace pimoe
