#include "model/key_value_cache.h"

#include "base/errors.h"
#include "base/text.h"
#include "model/rotary_table.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace pimoe {
namespace {

std::vector<PagedPart> places_of(const std::vector<CachedPart>& parts) { return {parts.begin(), parts.end()}; }

}  // namespace

KeyValueCache::KeyValueCache(const ModelConfig& config, at::ScalarType dtype, c10::Device device, int64_t all_pages, int64_t of_page)
    : pages(all_pages), page_tokens(of_page) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  // Elsewhere than on CPUs what is behind a sequence's end is read with a share of nothing, which times what memory happened to hold may be no
  // number. CPUs read none of it, and pages that nobody has used yet take no memory.
  const auto room = [&](at::IntArrayRef shape) { return device.is_cpu() ? at::empty(shape, options) : at::zeros(shape, options); };
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    layers.push_back({room({pages, config.key_heads(), config.key_width(), page_tokens}),
                      room({pages, config.key_heads(), page_tokens, config.value_width()})});
  }
}

int64_t KeyValueCache::bytes_of_page(const ModelConfig& config, at::ScalarType dtype, int64_t page_tokens) {
  const int64_t of_position = config.key_heads() * (config.key_width() + config.value_width());
  return config.layers * page_tokens * of_position * static_cast<int64_t>(c10::elementSize(dtype));
}

CachedTokens::CachedTokens(const std::vector<CachedPart>& parts, const KeyValueCache& cache, const RotaryTable& table, c10::Device device)
    : paged(places_of(parts), cache.pages, cache.page_tokens, device) {
  const int64_t room = table.cosine.size(0);
  std::vector<int64_t> at_positions, asked;
  for (const CachedPart& part : parts) {
    if (part.first + part.count > room || part.scored < 0 || part.scored > part.count) {
      throw ShapeError(concat("cached tokens: ", part.count, " from position ", part.first, " on, ", part.scored,
                              " of them scored; needs as many at least, within ", room, " positions"));
    }
    for (int64_t position = part.first; position < part.first + part.count; ++position) at_positions.push_back(position);
    const auto end = static_cast<int64_t>(at_positions.size());
    for (int64_t at = end - part.scored; at < end; ++at) asked.push_back(at);
  }
  const auto to_device = [&](const std::vector<int64_t>& numbers) { return at::tensor(numbers, at::kLong).to(device); };
  const at::Tensor positions = to_device(at_positions);
  cosine = table.cosine.index_select(0, positions);
  sine = table.sine.index_select(0, positions);
  if (static_cast<int64_t>(asked.size()) < paged.count) scored = to_device(asked);
}

CachedTokens::CachedTokens(PagedTables tables, const at::Tensor& positions, const KeyValueCache& cache, const RotaryTable& table)
    : paged(std::move(tables), cache.pages, cache.page_tokens),
      cosine(table.cosine.index_select(0, positions)),
      sine(table.sine.index_select(0, positions)) {}

}  // namespace pimoe
