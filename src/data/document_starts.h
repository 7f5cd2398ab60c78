#pragma once

#include "data/token_file.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// Where documents begin in a corpus' stream of tokens: from its index, without a look at a token. Thread-safe.
class DocumentStarts {
 public:
  /// @param corpus  must outlive it
  /// @throws DataError where every document is one token long: none of its tokens is predicted from another
  /// @cost  reads 16 bytes for every 256 documents, and keeps 8
  explicit DocumentStarts(const TokenFile& corpus);

  /// @returns where among the `count` tokens from stream position `begin` on documents begin, rising, `begin` itself left out: in (0, count)
  /// @throws IoError  @cost two small reads of PREFIX.idx for every 256 documents
  std::vector<int64_t> inside(int64_t begin, int64_t count) const;

 private:
  const TokenFile& corpus_;
  std::vector<int64_t> marks_;  ///< positions of documents 0, 256, 512, ...
};

/// @returns why data.document_mask changes nothing for a corpus; "" where it does
std::string doubt_about_documents(const TokenFile& corpus);

/// Puts together the documents of a batch, row by row: what attention takes (ops/packed_documents.h), and which targets are left out.
///
/// A document that reaches beyond a row is two, each alone in its own row. The target that crosses a boundary, a document's first token, is set
/// to -1: nothing that its prediction sees has to do with it.
class RowDocuments {
 public:
  /// @param length  S, tokens of a row
  explicit RowDocuments(int64_t length) : length_(length) {}

  /// A row whose targets are what they should be. @param begins  positions at which documents begin, rising, 0 first
  void add_row(const std::vector<int64_t>& begins);
  /// @param starts   where in the row's S + 1 tokens documents begin, rising, in (0, S]
  /// @param targets  [S] of the row, changed
  void add_row(const std::vector<int64_t>& starts, int64_t* targets);

  /// @returns [N + 1] int32: where each of the N documents begins among the tokens of all rows, and their number behind the last
  /// @throws ConfigError  for more tokens than an int32 can count
  at::Tensor starts() const;

 private:
  int64_t length_;
  int64_t rows_ = 0;
  std::vector<int64_t> starts_;
};

}  // namespace pimoe
