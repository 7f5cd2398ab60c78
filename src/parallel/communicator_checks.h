#pragma once

#include "parallel/communicator.h"

namespace pimoe {

/// The REQUIRES of Communicator, as far as one rank can see them; both builds call these first, so that they refuse alike.
/// @throws ShapeError naming the collective, the group and the rule.

void check_contiguous(const Communicator& group, const char* collective, const at::Tensor& tensor);
void check_reducible(const Communicator& group, const char* collective, const at::Tensor& tensor);
/// `whole` holds size() parts like `part`.
void check_parts(const Communicator& group, const char* collective, const at::Tensor& whole, const at::Tensor& part);
void check_rows(const Communicator& group, const at::Tensor& rows, const std::vector<int64_t>& send_rows,
                const std::vector<int64_t>& recv_rows);

/// @returns [sum recv_rows, ...], uninitialised, like `rows` and on its device.
at::Tensor empty_rows(const at::Tensor& rows, const std::vector<int64_t>& recv_rows);

/// @returns bytes of one row of `rows`.
int64_t row_bytes(const at::Tensor& rows);

}  // namespace pimoe
