#pragma once

#include "parallel/communicator.h"

namespace pimoe {

/// Communicator::all_to_all under autograd: the gradient travels back by the reverse exchange.
/// Every rank of the group takes part in forward and in backward, with zero rows too. `group` must outlive the graph.
at::Tensor exchange_rows(const at::Tensor& rows, const std::vector<int64_t>& send_rows, const std::vector<int64_t>& recv_rows,
                         const Communicator& group);

}  // namespace pimoe
