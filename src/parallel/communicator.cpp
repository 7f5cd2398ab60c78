#include "parallel/communicator.h"

#include "base/text.h"
#include "parallel/communicator_checks.h"

#include <ATen/ops/full.h>

namespace pimoe {

void Communicator::count_rows(const at::Tensor& rows, const std::vector<int64_t>& send_rows) const {
  count_bytes((rows.size(0) - send_rows[static_cast<size_t>(rank())]) * row_bytes(rows));
}

void Communicator::count_ring(const at::Tensor& whole, int passes) const {
  count_bytes(passes * static_cast<int64_t>(whole.nbytes()) * (size() - 1) / size());
}

std::string HostCommunicator::agree(const std::string& trouble) const {
  at::Tensor lowest = at::full({1}, trouble.empty() ? size() : rank(), at::kLong);
  all_reduce(lowest, ReduceOp::kMin);
  const int failing = static_cast<int>(lowest.item<int64_t>());
  if (failing == size()) return "";
  return concat("rank ", failing, ": ", broadcast_text(trouble, failing));
}

}  // namespace pimoe
