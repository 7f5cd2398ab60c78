#pragma once

#include "moe/quantization_config.h"
#include "parallel/parameter.h"

#include <string>

namespace pimoe {

/// Names of what a quantized matrix has beside its numbers.
inline constexpr const char* kScaleSuffix = ".scale";
inline constexpr const char* kInputScaleSuffix = ".input_scale";

/// @returns whether a tensor of that name is one of these
inline bool is_scale(const std::string& name) { return name.ends_with(kScaleSuffix) || name.ends_with(kInputScaleSuffix); }

/// A matrix of a layer, or one for each expert, that rows are multiplied with: numbers of the model's, or int8.
class Matrix {
 public:
  Matrix() = default;
  /// Declares NAME [..., B, A]; quantized, in int8, also NAME.scale [..., B] and, with fixed activations, NAME.input_scale: one for each expert, [1] of a
  /// dense matrix. @param box  of [B, A] or [n, B, A]
  Matrix(ParameterList& parameters, const std::string& name, const Box& box, Group copies, at::ScalarType dtype, double deviation,
         const QuantizationConfig& quantization = {});

  bool exists() const { return weight_ != nullptr; }
  bool is_quantized() const { return scale_ != nullptr; }
  /// Whether a fused network may take `value` instead of what multiplies here.
  bool is_plain() const { return scale_ == nullptr && !weight_->watch; }
  Parameter& parameter() const { return *weight_; }
  const at::Tensor& value() const { return weight_->value; }

  /// Tells who watches what a product that is made elsewhere multiplies.
  void tell(const at::Tensor& rows) const {
    if (weight_->watch) weight_->watch(rows, {});
  }
  /// rows W^T of a dense matrix. @param rows [..., A] contiguous  @returns [..., B]
  at::Tensor multiply(const at::Tensor& rows) const { return multiply(rows, rows.scalar_type()); }
  /// @param dtype  of the result where it is quantized
  at::Tensor multiply(const at::Tensor& rows, at::ScalarType dtype) const;
  /// The same of experts, as grouped_linear_layer. @param rows [R, A]  @param ends [n]
  at::Tensor multiply_groups(const at::Tensor& rows, const at::Tensor& ends) const;
  /// What int8_linear multiplies. REQUIRES is_quantized
  Int8Matrices int8() const;

 private:
  Parameter* weight_ = nullptr;
  Parameter* scale_ = nullptr;
  Parameter* input_scale_ = nullptr;
  Int8Activations activations_ = Int8Activations::kNone;
  bool allow_slow_ = false;
};

}  // namespace pimoe
