#include "data/packed_reader.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "base/errors.h"
#include "base/random.h"
#include "base/text.h"

namespace pimoe {
namespace {

constexpr int64_t kDocumentsAtATime = 1 << 16;

}  // namespace

PackedReader::PackedReader(const TokenFile& corpus, const LossMask* mask, const Options& options)
    : corpus_(corpus), mask_(mask), options_(options), order_key_(named_key(options.seed, "data.packed_order")) {
  std::vector<Document> documents = documents_of(corpus);
  if (documents.empty() || (mask != nullptr && mask->learned() == 0)) {
    throw DataError(concat(corpus.prefix().string(), " has no token to learn: no document of two tokens",
                           mask != nullptr ? ", or none that its loss mask marks" : ""));
  }
  if (options.shuffle) {
    const Permutation order(named_key(options.seed, "data.packing"), documents.size());
    std::vector<Document> drawn(documents.size());
    for (size_t i = 0; i < drawn.size(); ++i) drawn[i] = documents[order(i)];
    documents = std::move(drawn);
  }
  const std::vector<int64_t> row_of = lay(documents);
  // Documents of a row side by side, in the order in which they came.
  std::vector<int64_t> counts(static_cast<size_t>(*std::max_element(row_of.begin(), row_of.end())) + 1);
  for (const int64_t row : row_of) ++counts[static_cast<size_t>(row)];
  row_ends_.resize(counts.size());
  std::partial_sum(counts.begin(), counts.end(), row_ends_.begin());
  documents_.resize(documents.size());
  std::vector<int64_t> next(row_ends_);
  for (size_t i = documents.size(); i-- > 0;) documents_[static_cast<size_t>(--next[static_cast<size_t>(row_of[i])])] = documents[i];
}

std::vector<PackedReader::Document> PackedReader::documents_of(const TokenFile& corpus) const {
  std::vector<Document> documents;
  std::vector<int64_t> begins;
  const int64_t all = corpus.document_count();
  for (int64_t first = 0; first < all; first += kDocumentsAtATime) {
    const int64_t count = std::min(kDocumentsAtATime, all - first);
    const bool has_next = first + count < all;
    begins.resize(static_cast<size_t>(count) + 1);
    corpus.document_begins(first, count + (has_next ? 1 : 0), begins.data());
    if (!has_next) begins.back() = corpus.token_count();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = begins[static_cast<size_t>(i)];
      const int64_t tokens = begins[static_cast<size_t>(i) + 1] - begin;
      if (tokens > options_.sequence_length + 1) {
        throw DataError(concat(
            corpus.prefix().string(), ": document ", first + i, " has ", grouped(tokens), " tokens, and a row of model.sequence_length (",
            options_.sequence_length, ") holds ", grouped(options_.sequence_length + 1),
            ": take a longer sequence, or build the corpus with --sequence-length ", options_.sequence_length, " --bad-lines skip"));
      }
      if (tokens >= 2) documents.push_back({begin, tokens});
    }
  }
  return documents;
}

std::vector<int64_t> PackedReader::lay(const std::vector<Document>& documents) {
  std::vector<int64_t> row_of(documents.size());
  if (options_.alone) {
    std::iota(row_of.begin(), row_of.end(), int64_t{0});
    return row_of;
  }
  std::map<int64_t, std::vector<int64_t>> rows_with_room;  // by what is left of them
  int64_t rows = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    const int64_t needed = documents[i].tokens - 1;
    const auto found = rows_with_room.lower_bound(needed);
    int64_t row = rows;
    int64_t room = options_.sequence_length;
    if (found == rows_with_room.end()) {
      ++rows;
    } else {
      room = found->first;
      row = found->second.back();
      found->second.pop_back();
      if (found->second.empty()) rows_with_room.erase(found);
    }
    row_of[i] = row;
    if (room > needed) rows_with_room[room - needed].push_back(row);
  }
  return row_of;
}

double PackedReader::filling() const {
  int64_t positions = 0;
  for (const Document& document : documents_) positions += document.tokens - 1;
  return static_cast<double>(positions) / (static_cast<double>(samples_per_epoch()) * static_cast<double>(options_.sequence_length));
}

int64_t PackedReader::positions(int64_t row) const {
  int64_t positions = 0;
  for (int64_t i = row == 0 ? 0 : row_ends_[static_cast<size_t>(row) - 1]; i < row_ends_[static_cast<size_t>(row)]; ++i) {
    positions += documents_[static_cast<size_t>(i)].tokens - 1;
  }
  return positions;
}

int64_t PackedReader::targets(int64_t first, int64_t end) const {
  if (first == end) return 0;
  int64_t targets = 0;
  std::vector<uint8_t> learned;
  for (int64_t i = first == 0 ? 0 : row_ends_[static_cast<size_t>(first) - 1]; i < row_ends_[static_cast<size_t>(end) - 1]; ++i) {
    const Document& document = documents_[static_cast<size_t>(i)];
    learned.assign(static_cast<size_t>(document.tokens), 1);
    if (mask_ != nullptr) mask_->read(document.begin, document.tokens, learned.data());
    targets += std::accumulate(learned.begin() + 1, learned.end(), int64_t{0});
  }
  return targets;
}

void PackedReader::read(int64_t sample, int64_t vocabulary, SampleRow& row) const {
  int64_t index = sample % samples_per_epoch();
  if (options_.shuffle) {
    const auto epoch = static_cast<uint64_t>(sample / samples_per_epoch());
    const Permutation order(random_bits(order_key_, epoch), static_cast<uint64_t>(samples_per_epoch()));
    index = static_cast<int64_t>(order(static_cast<uint64_t>(index)));
  }
  row.begins.clear();
  std::vector<int64_t> ids;
  std::vector<uint8_t> learned;
  int64_t at = 0;
  for (int64_t i = index == 0 ? 0 : row_ends_[static_cast<size_t>(index) - 1]; i < row_ends_[static_cast<size_t>(index)]; ++i) {
    const Document& document = documents_[static_cast<size_t>(i)];
    ids.resize(static_cast<size_t>(document.tokens));
    corpus_.read(document.begin, document.tokens, ids.data());
    corpus_.require_ids_below(vocabulary, document.begin, ids.data(), document.tokens);
    learned.assign(ids.size(), 1);
    if (mask_ != nullptr) mask_->read(document.begin, document.tokens, learned.data());
    row.begins.push_back(at);
    for (size_t token = 0; token + 1 < ids.size(); ++token, ++at) {
      row.tokens[at] = ids[token];
      row.targets[at] = learned[token + 1] != 0 ? ids[token + 1] : -1;
      row.counted[at] = true;
    }
  }
  if (at < options_.sequence_length) row.begins.push_back(at);
  std::fill(row.tokens + at, row.tokens + options_.sequence_length, 0);
  std::fill(row.targets + at, row.targets + options_.sequence_length, -1);
  std::fill(row.counted + at, row.counted + options_.sequence_length, false);
}

}  // namespace pimoe
