#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/tokenizer_model.h"

namespace pimoe {

/// Reads a tokenizer.json, the format of Hugging Face's package `tokenizers`: byte-level BPE as GPT-2, Llama 3, Qwen, OLMo and GPT-NeoX have it, and
/// BPE with byte fallback as Llama 2 and Mixtral do.
///
///     text -> added tokens -> normalizer -> added tokens that are normalized -> pre_tokenizer -> words -> model.merges -> ids -> decoder -> text
///
/// Gives the ids that the package gives without special tokens around the text: what a post_processor would put there (TemplateProcessing's
/// beginning-of-text) is not, and stands in a text that names it, as every added token does. Malformed UTF-8, which the package cannot be
/// given, splits the text; each of its bytes is the byte's own token, so that nothing is lost.
///
/// Implemented: model BPE (merges as "a b" or ["a", "b"], ignore_merges, fuse_unk, byte_fallback with all 256 bytes); what
/// text_normalizer.h, pre_tokenizer.h and piece_texts.h say; post_processor ByteLevel, TemplateProcessing and Sequence. Everything else is
/// refused by name, and so is every key that is not known. `truncation` and `padding` are not applied, as transformers does not.
///
/// @param folder  where end_token.h looks for files beside it; empty: nowhere
/// @throws DataError naming the part, its value and the rule
/// @cost   a second for 150,000 pieces
std::unique_ptr<TokenizerModel> read_tokenizer_json(const std::string& content, const std::string& name,
                                                    const std::filesystem::path& folder);

}  // namespace pimoe
