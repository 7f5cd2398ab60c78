#include "parallel/communicator.h"

#include "base/text.h"
#include "parallel/communicator_checks.h"

#include <ATen/ops/full.h>

namespace pimoe {

void Communicator::count_rows(const at::Tensor& rows, const std::vector<int64_t>& send_rows) const {
  count((rows.size(0) - send_rows[static_cast<size_t>(rank())]) * row_bytes(rows), size() - 1);
}

void Communicator::count_ring(const at::Tensor& whole, int passes) const {
  count(passes * static_cast<int64_t>(whole.nbytes()) * (size() - 1) / size(), static_cast<int64_t>(passes) * (size() - 1));
}

void Communicator::count(int64_t bytes, int64_t messages) const {
  sent_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  sent_messages_.fetch_add(messages, std::memory_order_relaxed);
  collectives_.fetch_add(1, std::memory_order_relaxed);
}

std::string HostCommunicator::agree(const std::string& trouble) const {
  at::Tensor lowest = at::full({1}, trouble.empty() ? size() : rank(), at::kLong);
  all_reduce(lowest, ReduceOp::kMin);
  const int failing = static_cast<int>(lowest.item<int64_t>());
  if (failing == size()) return "";
  return concat("rank ", failing, ": ", broadcast_text(trouble, failing));
}

}  // namespace pimoe
