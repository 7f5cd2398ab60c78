#pragma once

#include <optional>
#include <string>

namespace pimoe {

/// The tokenizer.json that gives the ids of a SentencePiece model of `train_tokenizer`, for programs that read no SentencePiece.
///
/// Texts with the names of special tokens in them (`</s>`), or with U+2581, SentencePiece's mark for a space, are other ids there.
///
/// @param model  the model's content
/// @returns nothing for models made otherwise: unigram ones, such as change a text or put a space in front of it, or cannot write every byte
/// @throws DataError if it is no SentencePiece model
std::optional<std::string> tokenizer_json_of(const std::string& model);

}  // namespace pimoe
