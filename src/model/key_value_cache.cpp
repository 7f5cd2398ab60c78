#include "model/key_value_cache.h"

#include "base/errors.h"
#include "base/text.h"
#include "model/rotary_table.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace pimoe {

KeyValueCache::KeyValueCache(const ModelConfig& config, at::ScalarType dtype, c10::Device device, int64_t sequences) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    // Zeros: a share of nothing times what memory happened to hold may be no number.
    const auto of_width = [&](int64_t width) { return at::zeros({sequences, config.sequence_length, config.key_heads(), width}, options); };
    layers.push_back({of_width(config.key_width()), of_width(config.value_width())});
  }
}

int64_t KeyValueCache::bytes_of_sequence(const ModelConfig& config, at::ScalarType dtype) {
  const int64_t of_position = config.key_heads() * (config.key_width() + config.value_width());
  return config.layers * config.sequence_length * of_position * static_cast<int64_t>(c10::elementSize(dtype));
}

CachedTokens::CachedTokens(std::vector<CachedPart> of_sequences, const RotaryTable& table, c10::Device device)
    : parts(std::move(of_sequences)) {
  const int64_t room = table.cosine.size(0);
  std::vector<int64_t> at_positions, at_places, ends;
  for (const CachedPart& part : parts) {
    if (part.first < 0 || part.count < 1 || part.first + part.count > room || (part.first > 0 && part.count > 1)) {
      throw ShapeError(concat("cached tokens: ", part.count, " from position ", part.first, " on of sequence ", part.sequence,
                              "; needs one behind the kept ones, or some from the beginning, within ", room, " positions"));
    }
    for (int64_t position = part.first; position < part.first + part.count; ++position) {
      at_positions.push_back(position);
      at_places.push_back(part.sequence * room + position);
    }
    count += part.count;
    ends.push_back(count - 1);
  }
  const auto to_device = [&](const std::vector<int64_t>& numbers) { return at::tensor(numbers, at::kLong).to(device); };
  const at::Tensor positions = to_device(at_positions);
  cosine = table.cosine.index_select(0, positions);
  sine = table.sine.index_select(0, positions);
  places = to_device(at_places);
  last = to_device(ends);
}

}  // namespace pimoe
