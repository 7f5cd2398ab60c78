#include "moe/matrix.h"

#include "moe/weights.h"
#include "ops/grouped_product.h"

#include <ATen/ops/full.h>

namespace pimoe {
namespace {

Parameter& declare_scale(ParameterList& parameters, const std::string& name, const Box& box, Group copies, size_t dimensions) {
  Box part;
  part.global.assign(box.global.begin(), box.global.begin() + static_cast<ptrdiff_t>(dimensions));
  part.offset.assign(box.offset.begin(), box.offset.begin() + static_cast<ptrdiff_t>(dimensions));
  part.shape.assign(box.shape.begin(), box.shape.begin() + static_cast<ptrdiff_t>(dimensions));
  if (dimensions == 0) part = Box::whole({1});
  return parameters.declare({.name = name,
                             .box = std::move(part),
                             .copies = copies,
                             .dtype = at::kFloat,
                             .decay = false,
                             .initializer = {Initializer::Kind::kConstant, 1.0},
                             .value = {}});
}

}  // namespace

Matrix::Matrix(ParameterList& parameters, const std::string& name, const Box& box, Group copies, at::ScalarType dtype, double deviation,
               const QuantizationConfig& quantization)
    : activations_(quantization.activations()), allow_slow_(quantization.allow_slow) {
  weight_ = &declare_weight(parameters, name, box, copies, quantization.exists() ? at::kChar : dtype, deviation);
  if (!quantization.exists()) return;
  const size_t dimensions = box.global.size();
  scale_ = &declare_scale(parameters, name + kScaleSuffix, box, copies, dimensions - 1);
  if (activations_ == Int8Activations::kStatic) {
    input_scale_ = &declare_scale(parameters, name + kInputScaleSuffix, box, copies, dimensions - 2);
  }
}

at::Tensor Matrix::multiply(const at::Tensor& rows, at::ScalarType dtype) const {
  if (is_plain()) return linear_layer(rows, weight_->value);
  const at::Tensor flat = rows.reshape({-1, rows.size(-1)});
  tell(flat);
  if (!is_quantized()) return linear_layer(rows, weight_->value);
  const at::Tensor ends = at::full({1}, flat.size(0), flat.options().dtype(at::kInt).requires_grad(false));
  Int8Matrices matrices = int8();
  matrices.numbers = matrices.numbers.unsqueeze(0);
  matrices.scales = matrices.scales.unsqueeze(0);
  std::vector<int64_t> shape = rows.sizes().vec();
  shape.back() = weight_->value.size(0);
  return int8_linear(flat, matrices, ends, dtype).view(shape);
}

at::Tensor Matrix::multiply_groups(const at::Tensor& rows, const at::Tensor& ends) const {
  if (weight_->watch) weight_->watch(rows, ends);
  if (!is_quantized()) return grouped_linear_layer(rows, weight_->value, ends);
  return int8_linear(rows, int8(), ends, rows.scalar_type());
}

Int8Matrices Matrix::int8() const {
  return {.numbers = weight_->value,
          .scales = scale_->value,
          .input_scales = input_scale_ != nullptr ? input_scale_->value : at::Tensor(),
          .activations = activations_,
          .allow_slow = allow_slow_};
}

}  // namespace pimoe
