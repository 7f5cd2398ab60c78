#include "data/sample_reader.h"

#include <algorithm>

#include "base/errors.h"
#include "base/random.h"
#include "base/text.h"

namespace pimoe {

SampleReader::SampleReader(const TokenFile& corpus, int64_t sequence_length, uint64_t seed, bool shuffle)
    : corpus_(corpus),
      sequence_length_(sequence_length),
      shuffle_(shuffle),
      order_key_(named_key(seed, "data.order")),
      first_position_key_(named_key(seed, "data.first_position")) {
  const int64_t tokens = corpus.token_count();
  if (tokens < sequence_length + 1) {
    throw DataError(concat(corpus.prefix().string(), " has ", grouped(tokens), " tokens; model.sequence_length (", sequence_length,
                           ") needs at least ", grouped(sequence_length + 1), ": take shorter sequences or a larger corpus"));
  }
  // Shuffled, every first position below S must leave the same number of samples; a corpus too short for that gives one.
  samples_per_epoch_ = shuffle ? std::max<int64_t>(1, (tokens - sequence_length) / sequence_length) : (tokens - 1) / sequence_length;
}

int64_t SampleReader::begin_of(int64_t sample) const {
  const int64_t index = sample % samples_per_epoch_;
  if (!shuffle_) return index * sequence_length_;
  const auto epoch = static_cast<uint64_t>(sample / samples_per_epoch_);
  const int64_t first_positions = std::min(sequence_length_, corpus_.token_count() - samples_per_epoch_ * sequence_length_);
  const auto first = static_cast<int64_t>(random_bits(first_position_key_, epoch) % static_cast<uint64_t>(first_positions));
  const Permutation order(random_bits(order_key_, epoch), static_cast<uint64_t>(samples_per_epoch_));
  return first + static_cast<int64_t>(order(static_cast<uint64_t>(index))) * sequence_length_;
}

void SampleReader::read(int64_t sample, int64_t* out) const { corpus_.read(begin_of(sample), sequence_length_ + 1, out); }

}  // namespace pimoe
