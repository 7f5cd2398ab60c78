#include "data/sample_blend.h"

#include <algorithm>

namespace pimoe {

BlendOrder order_of(const std::vector<BlendedCorpus>& corpora) {
  std::vector<double> weights;
  for (const BlendedCorpus& each : corpora) weights.push_back(each.weight);
  return BlendOrder(weights);
}

bool lays_documents(Packing packing, const std::string& prefix) {
  return packing == Packing::kAuto ? LossMask::is_beside(prefix) : packing != Packing::kStream;
}

bool keeps_documents_apart(const DataConfig& data) {
  if (data.document_mask || data.packing == Packing::kPacked || data.packing == Packing::kPadded) return true;
  const std::vector<BlendedCorpus> corpora = data.training();
  return std::any_of(corpora.begin(), corpora.end(), [&data](const auto& each) { return lays_documents(data.packing, each.prefix); });
}

SampleBlend::Source::Source(const std::string& prefix, int64_t sequence_length, uint64_t seed, bool shuffle, const SampleChoice& choice)
    : corpus(prefix) {
  const bool has_mask = LossMask::is_beside(prefix);
  if (choice.loss == LossTokens::kMasked || (choice.loss == LossTokens::kAuto && has_mask)) mask.emplace(corpus);
  if (!lays_documents(choice.packing, prefix)) {
    reader.emplace(corpus, sequence_length, seed, shuffle);
    if (choice.document_mask) documents.emplace(corpus);
  } else {
    packed.emplace(corpus, mask ? &*mask : nullptr,
                   PackedReader::Options{sequence_length, seed, shuffle, /*alone=*/choice.packing == Packing::kPadded});
  }
}

SampleBlend::SampleBlend(const std::vector<BlendedCorpus>& corpora, int64_t sequence_length, uint64_t seed, bool shuffle,
                         const SampleChoice& choice)
    : order_(order_of(corpora)), sequence_length_(sequence_length) {
  for (const BlendedCorpus& each : corpora) {
    sources_.push_back(std::make_unique<Source>(each.prefix, sequence_length, seed, shuffle, choice));
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
  return source.documents->inside(source.reader->begin_of(place.sample), sequence_length_ + 1);
}

std::optional<double> SampleBlend::filling(size_t index) const {
  const std::optional<PackedReader>& packed = sources_[index]->packed;
  return packed ? std::optional(packed->filling()) : std::nullopt;
}

bool SampleBlend::is_plain() const {
  return std::none_of(sources_.begin(), sources_.end(),
                      [](const auto& source) { return source->mask || source->packed || source->documents; });
}

bool SampleBlend::fills_up() const {
  return std::any_of(sources_.begin(), sources_.end(), [](const auto& source) { return source->packed.has_value(); });
}

bool SampleBlend::keeps_documents_apart() const {
  return std::any_of(sources_.begin(), sources_.end(), [](const auto& source) { return source->packed || source->documents; });
}

void SampleBlend::read_row(int64_t sample, int64_t vocabulary, SampleRow& row) const {
  const BlendOrder::Place place = order_.place_of(sample);
  const Source& source = *sources_[place.corpus];
  if (source.packed) return source.packed->read(place.sample, vocabulary, row);
  const int64_t begin = source.reader->begin_of(place.sample);
  const int64_t length = sequence_length_;
  std::vector<int64_t> ids(static_cast<size_t>(length) + 1);
  source.corpus.read(begin, length + 1, ids.data());
  source.corpus.require_ids_below(vocabulary, begin, ids.data(), length + 1);
  std::vector<uint8_t> learned(ids.size(), 1);
  if (source.mask) source.mask->read(begin, length + 1, learned.data());
  row.begins = {0};
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    row.tokens[i] = ids[i];
    row.targets[i] = learned[i + 1] != 0 ? ids[i + 1] : -1;
    row.counted[i] = true;
  }
  if (!source.documents) return;
  for (const int64_t start : source.documents->inside(begin, length + 1)) {
    row.targets[start - 1] = -1;
    if (start < length) row.begins.push_back(start);
  }
}

void SampleBlend::read(int64_t sample, int64_t vocabulary, int64_t* out) const {
  const BlendOrder::Place place = order_.place_of(sample);
  const Source& source = *sources_[place.corpus];
  const int64_t begin = source.reader->begin_of(place.sample);
  source.corpus.read(begin, sequence_length_ + 1, out);
  source.corpus.require_ids_below(vocabulary, begin, out, sequence_length_ + 1);
}

}  // namespace pimoe
