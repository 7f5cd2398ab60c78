#include "data/sample_blend.h"

namespace pimoe {

BlendOrder order_of(const std::vector<BlendedCorpus>& corpora) {
  std::vector<double> weights;
  for (const BlendedCorpus& each : corpora) weights.push_back(each.weight);
  return BlendOrder(weights);
}

SampleBlend::SampleBlend(const std::vector<BlendedCorpus>& corpora, int64_t sequence_length, uint64_t seed, bool shuffle,
                         bool with_documents)
    : order_(order_of(corpora)), sequence_length_(sequence_length) {
  for (const BlendedCorpus& each : corpora) {
    sources_.push_back(std::make_unique<Source>(each.prefix, sequence_length, seed, shuffle, with_documents));
  }
}

std::vector<double> SampleBlend::epochs_before(int64_t sample) const {
  std::vector<double> epochs;
  for (size_t i = 0; i < size(); ++i) {
    epochs.push_back(static_cast<double>(order_.samples_before(sample, i)) / static_cast<double>(samples_per_epoch(i)));
  }
  return epochs;
}

std::vector<int64_t> SampleBlend::document_starts(int64_t sample) const {
  const BlendOrder::Place place = order_.place_of(sample);
  const Source& source = *sources_[place.corpus];
  return source.documents->inside(source.reader.begin_of(place.sample), sequence_length_ + 1);
}

void SampleBlend::read(int64_t sample, int64_t vocabulary, int64_t* out) const {
  const BlendOrder::Place place = order_.place_of(sample);
  const Source& source = *sources_[place.corpus];
  const int64_t begin = source.reader.begin_of(place.sample);
  source.corpus.read(begin, sequence_length_ + 1, out);
  source.corpus.require_ids_below(vocabulary, begin, out, sequence_length_ + 1);
}

}  // namespace pimoe
