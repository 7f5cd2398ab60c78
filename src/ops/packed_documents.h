#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace pimoe {

/// The documents that a batch' rows are packed from, for attention that stays inside of each (block-diagonal, or intra-document, masking:
/// arXiv 2402.13991; Llama 3, arXiv 2407.21783, section 3.2).
struct PackedDocuments {
  /// @param starts  [N + 1] int32 on the host: where documents begin among the B S tokens of all rows, rising from 0, and B S behind the last.
  ///                Every row must begin one (checked where the rows are known).
  /// @param device  of the tokens
  /// @throws ShapeError for anything else
  PackedDocuments(const at::Tensor& starts, c10::Device device);

  int64_t count() const { return starts.numel() - 1; }
  int64_t tokens() const { return positions.numel(); }

  at::Tensor starts;            ///< on the host
  at::Tensor starts_on_device;  ///< the same where the tokens are
  at::Tensor positions;         ///< [B S] int64 where the tokens are: of each within its document
  int64_t longest = 0;          ///< tokens
};

}  // namespace pimoe
