#include "data/document_starts.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {
namespace {

constexpr int64_t kStride = 256;  // documents from mark to mark: what is read to find one

}  // namespace

DocumentStarts::DocumentStarts(const TokenFile& corpus) : corpus_(corpus) {
  marks_.resize(static_cast<size_t>((corpus.document_count() + kStride - 1) / kStride));
  for (size_t mark = 0; mark < marks_.size(); ++mark) corpus.document_begins(static_cast<int64_t>(mark) * kStride, 1, &marks_[mark]);
  const int64_t tokens = corpus.token_count();
  // Empty documents are counted, so that only the positions can say it.
  if (tokens <= corpus.document_count() && static_cast<int64_t>(inside(0, tokens).size()) == tokens - 1) {
    throw DataError(concat(
        corpus.prefix().string(), ": each of its ", grouped(tokens), " tokens is a document, and data.document_mask (true) predicts ",
        "tokens from those before them in their document alone: build it with documents, or set data.document_mask to false"));
  }
}

std::vector<int64_t> DocumentStarts::inside(int64_t begin, int64_t count) const {
  std::vector<int64_t> starts;
  const auto next_mark = std::upper_bound(marks_.begin(), marks_.end(), begin);
  std::vector<int64_t> block(kStride);
  int64_t last = 0;
  // The first mark is at 0, so that there is one at or before `begin`.
  for (int64_t first = std::max<int64_t>(0, next_mark - marks_.begin() - 1) * kStride; first < corpus_.document_count(); first += kStride) {
    const int64_t documents = std::min(kStride, corpus_.document_count() - first);
    corpus_.document_begins(first, documents, block.data());
    for (int64_t i = 0; i < documents; ++i) {
      const int64_t start = block[static_cast<size_t>(i)] - begin;
      if (start >= count) return starts;
      if (start > last) starts.push_back(last = start);
    }
  }
  return starts;
}

std::string doubt_about_documents(const TokenFile& corpus) {
  if (corpus.document_count() > 1) return "";
  return concat("data.document_mask (true) has no effect on ", corpus.prefix().string(), ", which is one document of ",
                counted(corpus.sequence_count(), "sequence"), ": its index tells of no other");
}

void RowDocuments::add_row(const std::vector<int64_t>& begins) {
  for (const int64_t begin : begins) starts_.push_back(rows_ * length_ + begin);
  ++rows_;
}

void RowDocuments::add_row(const std::vector<int64_t>& starts, int64_t* targets) {
  std::vector<int64_t> begins = {0};
  for (const int64_t start : starts) {
    targets[start - 1] = -1;
    if (start < length_) begins.push_back(start);
  }
  add_row(begins);
}

at::Tensor RowDocuments::starts() const {
  const int64_t tokens = rows_ * length_;
  if (tokens > std::numeric_limits<int32_t>::max()) {
    throw ConfigError(concat("a micro-batch of ", grouped(rows_), " sequences of ", grouped(length_),
                             " tokens is more than 2,147,483,647 tokens: ", "lower train.micro_batch"));
  }
  at::Tensor all = at::empty({static_cast<int64_t>(starts_.size()) + 1}, at::kInt);
  auto* out = all.mutable_data_ptr<int32_t>();
  for (const int64_t start : starts_) *out++ = static_cast<int32_t>(start);
  *out = static_cast<int32_t>(tokens);
  return all;
}

}  // namespace pimoe
