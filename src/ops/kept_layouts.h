#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

namespace pimoe {

/// Weights that do not change any more, each laid out for products once, when the first product asks for it, and not for every product again. On CPUs with
/// products by tiles (tile_product.h) alone; elsewhere there is nothing to keep. Takes as much memory again as the weights that are multiplied.
///
/// REQUIRES that nobody writes to the weights while it lives. For one thread at a time.
class KeptLayouts {
 public:
  /// @param weights  whatever lies in their storages is a weight
  explicit KeptLayouts(const std::vector<at::Tensor>& weights);
  KeptLayouts(const KeptLayouts&) = delete;
  KeptLayouts& operator=(const KeptLayouts&) = delete;

  /// Products of this thread use them for the life of the object; as at::NoGradGuard.
  class Use {
   public:
    explicit Use(KeptLayouts& layouts);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    KeptLayouts* before_;
  };

  /// @returns where the layout of `matrices` is kept, or is to be: undefined at first; null where they are no weight, or nothing is in use
  static at::Tensor* find(const at::Tensor& matrices);

 private:
  using View = std::tuple<const void*, std::vector<int64_t>, std::vector<int64_t>>;  ///< data, sizes, strides

  std::vector<at::Tensor> weights_;  ///< keep their storages
  std::set<const void*> storages_;
  std::map<View, at::Tensor> layouts_;
};

/// rows W^T in the arithmetic type of rows: scores whose differences must not be rounded to 16 bits. Not differentiable.
/// @param rows [R, A], weight [B, A]  @returns [R, B]: float32, or float64 for float64. Elsewhere than where products go by tiles the numbers of
///         16-bit types are rounded to these in between
at::Tensor score_product(const at::Tensor& rows, const at::Tensor& weight);

}  // namespace pimoe
