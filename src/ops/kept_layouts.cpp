#include "ops/kept_layouts.h"

#include "ops/launch.h"
#include "ops/tile_product.h"

#include <ATen/ops/linear.h>

namespace pimoe {
namespace {

thread_local KeptLayouts* in_use = nullptr;

}  // namespace

KeptLayouts::KeptLayouts(const std::vector<at::Tensor>& weights) : weights_(weights) {
  for (const at::Tensor& weight : weights_) storages_.insert(weight.storage().unsafeGetStorageImpl());
}

KeptLayouts::Use::Use(KeptLayouts& layouts) : before_(in_use) { in_use = &layouts; }
KeptLayouts::Use::~Use() { in_use = before_; }

at::Tensor* KeptLayouts::find(const at::Tensor& matrices) {
  if (in_use == nullptr || !in_use->storages_.contains(matrices.storage().unsafeGetStorageImpl())) return nullptr;
  return &in_use->layouts_[{matrices.const_data_ptr(), matrices.sizes().vec(), matrices.strides().vec()}];
}

at::Tensor score_product(const at::Tensor& rows, const at::Tensor& weight) {
  check_shape(rows.dim() == 2 && weight.dim() == 2 && rows.size(1) == weight.size(1), "score_product: rows ", describe(rows), ", weight ",
              describe(weight));
  if (has_tile_product(rows) && rows.size(0) > 0 && rows.size(1) % 2 == 0 && weight.is_contiguous()) {
    return multiply_rows_by_tiles(rows.contiguous(), weight.unsqueeze(0).transpose(1, 2), {static_cast<int32_t>(rows.size(0))}, at::kFloat);
  }
  return at::linear(rows, weight).to(arithmetic_type(rows));
}

}  // namespace pimoe
