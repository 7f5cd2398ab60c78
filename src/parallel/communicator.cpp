#include "parallel/communicator.h"

#include "base/text.h"

#include <ATen/ops/full.h>

namespace pimoe {

std::string HostCommunicator::agree(const std::string& trouble) const {
  at::Tensor lowest = at::full({1}, trouble.empty() ? size() : rank(), at::kLong);
  all_reduce(lowest, ReduceOp::kMin);
  const int failing = static_cast<int>(lowest.item<int64_t>());
  if (failing == size()) return "";
  return concat("rank ", failing, ": ", broadcast_text(trouble, failing));
}

}  // namespace pimoe
