#pragma once

#include <memory>
#include <string>

#include "data/tokenizer_model.h"

namespace pimoe {

/// @param content  of a SentencePiece model's file
/// @param name     for messages
/// @throws DataError where it is none, or has no end-of-document piece (</s>)
std::unique_ptr<TokenizerModel> read_sentencepiece_model(const std::string& content, const std::string& name);

}  // namespace pimoe
