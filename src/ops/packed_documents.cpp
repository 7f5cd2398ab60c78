#include "ops/packed_documents.h"

#include "ops/launch.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace pimoe {

PackedDocuments::PackedDocuments(const at::Tensor& given, c10::Device device) : starts(given) {
  check_shape(given.defined() && given.dim() == 1 && given.numel() >= 1 && given.scalar_type() == at::kInt && given.is_cpu() &&
                  given.is_contiguous(),
              "packed documents: starts must be [N + 1] int32 on the host");
  const int32_t* const at = given.const_data_ptr<int32_t>();
  check_shape(at[0] == 0, "packed documents: the first start (", at[0], ") must be 0");
  const at::Tensor inside = at::empty({at[count()]}, at::kLong);
  auto* out = inside.mutable_data_ptr<int64_t>();
  for (int64_t document = 0; document < count(); ++document) {
    const int64_t length = at[document + 1] - at[document];
    check_shape(length > 0, "packed documents: start ", document + 1, " (", at[document + 1], ") must be above the one before it (",
                at[document], ")");
    for (int64_t position = 0; position < length; ++position) *out++ = position;
    longest = std::max(longest, length);
  }
  starts_on_device = starts.to(device, /*non_blocking=*/true);  // waits for nothing: pageable memory is read before the call returns
  positions = inside.to(device, /*non_blocking=*/true);
}

}  // namespace pimoe
