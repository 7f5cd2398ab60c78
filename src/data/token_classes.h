#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace pimoe {

/// What a text is read as.
enum class TextKind { kPython, kProse };

/// Index into class_names.
using TokenClass = int8_t;
/// Of a token without text: the end of a document.
constexpr TokenClass kNoClass = -1;

/// What a byte of Python source can be. Delimiters count as operators; so does a byte that no Python token begins with.
enum PythonClass : TokenClass { kIdentifier, kKeyword, kNumber, kOperator, kWhitespace, kString, kComment };
/// What a byte of prose can be.
enum ProseClass : TokenClass { kWord, kDigit, kPunctuation, kSpace };

/// @returns the classes' names in the order of the enumerations above.
const std::vector<std::string>& class_names(TextKind kind);

/// Gives each byte of one document its class.
///
/// Python is read by its lexical rules, without indentation and without parsing: a string has its prefix, quotes and content, f-strings
/// with what their braces hold; a string in single quotes that is not closed ends with its line; keywords are the 35 that are never names
/// (`match`, `case`, `type` and `_` are identifiers); letters beyond ASCII belong to identifiers. A text that is no Python gets classes too.
///
/// In prose a word is letters, everything beyond ASCII but the punctuation and spaces of Unicode's first blocks for these, and an
/// apostrophe between letters; what is neither word, digit nor space is punctuation.
///
/// @source The Python Language Reference 3.13, chapter 2.
std::vector<TokenClass> classify_bytes(std::string_view text, TextKind kind);

/// Gives each token the class of most of its bytes. Equally many: whitespace gives way (a piece " x" is an identifier), then the class that
/// comes first in the token.
///
/// @param ids  a stream of documents, each with its end-of-document token, from the beginning of a document on; read as a whole, so that a
///             token knows that it stands in a string which began long before it
/// @returns a class for each id; kNoClass where an id has no text
/// @throws DataError for an id outside the vocabulary
/// @cost about 20 ns a byte; the text of one document is held at a time.
std::vector<TokenClass> classify_tokens(const std::vector<int32_t>& ids, const Tokenizer& tokenizer, TextKind kind);

}  // namespace pimoe
