#include "ops/int8_product.h"

#include "ops/int8_tiles.h"
#include "ops/launch.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_int_mm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace pimoe {
namespace {

constexpr double kMost = 127.0;

std::vector<int32_t> host_ends(const at::Tensor& ends, int64_t rows) {
  const at::Tensor host = ends.cpu();
  const int32_t* values = host.const_data_ptr<int32_t>();
  std::vector<int32_t> result(values, values + ends.numel());
  int32_t last = 0;
  for (const int32_t end : result) {
    check_shape(last <= end && end <= rows, "ends ", ends, " must rise from 0 and stay within ", rows, " rows");
    last = end;
  }
  return result;
}

at::Tensor rounded(const at::Tensor& values, const at::Tensor& scales) {
  const at::Tensor inverse = at::where(scales > 0, scales.reciprocal(), at::zeros({}, scales.options()));
  return (values * inverse.unsqueeze(-1)).round().clamp(-kMost, kMost).nan_to_num(0.0).to(at::kChar);
}

/// Rows of one group as int8 numbers, with a scale each.
Int8Numbers numbers_of_rows(const at::Tensor& rows, const Int8Matrices& matrices, int64_t group) {
  if (matrices.activations == Int8Activations::kDynamic) return int8_numbers(rows);
  const at::Tensor wide = rows.to(at::kFloat);
  const at::Tensor fixed = matrices.input_scales.select(0, group).expand({rows.size(0)});
  const at::Tensor finite = wide.isfinite().all(-1);
  return {rounded(wide, fixed), at::where(finite, fixed, at::full_like(fixed, std::numeric_limits<float>::quiet_NaN()))};
}

/// A plain product for each group, as the definition has it.
at::Tensor reference_product(const at::Tensor& rows, const Int8Matrices& matrices, int64_t group) {
  const at::Tensor numbers = matrices.numbers.select(0, group).to(at::kDouble).t();
  const at::Tensor scales = matrices.scales.select(0, group);
  if (matrices.activations == Int8Activations::kNone) return (at::mm(rows.to(at::kDouble), numbers) * scales).to(at::kFloat);
  const Int8Numbers left = numbers_of_rows(rows, matrices, group);
  const at::Tensor sums = at::mm(left.numbers.to(at::kDouble), numbers).to(at::kFloat);
  return sums * (left.scales.unsqueeze(1) * scales);
}

/// By libtorch's products for GPUs, for what gpu_products does not take. A group's matrix is widened for its product, exactly; at::_int_mm takes more than
/// 16 rows, and terms and channels in multiples of eight.
at::Tensor gpu_product(const at::Tensor& rows, const Int8Matrices& matrices, int64_t group) {
  constexpr int64_t kUnit = 8, kLeastRows = 32;
  const at::Tensor numbers = matrices.numbers.select(0, group);
  const at::Tensor scales = matrices.scales.select(0, group);
  if (matrices.activations == Int8Activations::kNone) {
    if (rows.element_size() == 2) return at::mm(rows, numbers.to(rows.scalar_type()).t(), at::kFloat) * scales;
    return at::mm(rows.to(at::kFloat), numbers.to(at::kFloat).t()) * scales;
  }
  const auto missing = [](int64_t count) { return (kUnit - count % kUnit) % kUnit; };
  const Int8Numbers left = numbers_of_rows(rows, matrices, group);
  const int64_t terms = missing(numbers.size(1));
  const int64_t more_rows = std::max(kLeastRows - rows.size(0), missing(rows.size(0)));
  const at::Tensor a = at::constant_pad_nd(left.numbers, {0, terms, 0, std::max<int64_t>(0, more_rows)});
  const at::Tensor b = at::constant_pad_nd(numbers, {0, terms, 0, missing(numbers.size(0))});
  const at::Tensor sums = at::_int_mm(a, b.t()).narrow(0, 0, rows.size(0)).narrow(1, 0, numbers.size(0)).to(at::kFloat);
  return sums * (left.scales.unsqueeze(1) * scales);
}

bool has_gpu_products(const at::Tensor& rows, const Int8Matrices& matrices, at::ScalarType dtype) {
  if constexpr (kCudaBuild) {
    return rows.is_cuda() && cuda::has_int8_products(rows.size(1), dtype_of(rows), matrices.activations == Int8Activations::kNone,
                                                     dtype_of(at::empty({0}, dtype)));
  }
  return false;
}

/// All groups at once; nothing of it waits for the host.
void gpu_products(const at::Tensor& rows, const Int8Matrices& matrices, const at::Tensor& ends, const at::Tensor& output) {
  Int8Numbers left{rows, {}};
  Int8ProductArguments a{};
  if (matrices.activations != Int8Activations::kNone) {
    left = {at::empty(rows.sizes(), rows.options().dtype(at::kChar)), at::empty({rows.size(0)}, rows.options().dtype(at::kFloat))};
    Int8RowsArguments rounding{};
    rounding.dtype = dtype_of(rows);
    rounding.columns = rows.size(1);
    rounding.values = rows.const_data_ptr();
    rounding.ends = ends.const_data_ptr<int32_t>();
    rounding.groups = ends.numel();
    if (matrices.activations == Int8Activations::kStatic) rounding.static_scales = matrices.input_scales.const_data_ptr<float>();
    rounding.numbers = left.numbers.mutable_data_ptr<int8_t>();
    rounding.scales = left.scales.mutable_data_ptr<float>();
    launch(
        rows, rows.size(0), 0, [](int64_t /*begin*/, int64_t /*end*/) {}, [&] { cuda::int8_rows(rounding, rows.size(0)); });
    a.row_scales = left.scales.const_data_ptr<float>();
  }
  a.row_count = rows.size(0);
  a.groups = ends.numel();
  a.channels = matrices.numbers.size(1);
  a.terms = rows.size(1);
  a.ends = ends.const_data_ptr<int32_t>();
  a.rows = left.numbers.const_data_ptr();
  a.rows_dtype = dtype_of(rows);
  a.numbers = matrices.numbers.const_data_ptr<int8_t>();
  a.scales = matrices.scales.const_data_ptr<float>();
  a.output_dtype = dtype_of(output);
  a.output = output.mutable_data_ptr();
  const int64_t row_bytes = output.size(1) * static_cast<int64_t>(output.element_size());
  launch(
      rows, rows.size(0), 0, [](int64_t /*begin*/, int64_t /*end*/) {},
      [&] {
        cuda::int8_products(a);
        cuda::zero_rows_from(a.output, row_bytes, a.row_count, a.ends + a.groups - 1);
      });
}

std::string missing_on(Int8Activations activations, c10::Device device) {
  if (device.is_cpu()) return missing_for_int8(activations);
  return device.is_cuda() ? "" : concat("a device of kind cpu or cuda, and not ", device.str());
}

void check(const at::Tensor& rows, const Int8Matrices& matrices, const at::Tensor& ends) {
  dtype_of(rows);
  const at::Tensor& numbers = matrices.numbers;
  check_shape(
      rows.dim() == 2 && numbers.dim() == 3 && ends.dim() == 1 && rows.size(1) == numbers.size(2) && ends.numel() == numbers.size(0),
      "int8_linear: rows ", describe(rows), ", numbers ", describe(numbers), ", ends ", describe(ends), "; needs [R, A], [G, B, A], [G]");
  check_shape(numbers.size(2) <= kMostInt8Terms, "int8_linear: rows of ", numbers.size(2), " numbers; sums are int32, which hold ",
              kMostInt8Terms);
  check_operand("rows", rows, rows.scalar_type(), rows);
  check_operand("numbers", numbers, at::kChar, rows);
  check_operand("scales", matrices.scales, at::kFloat, rows);
  check_operand("ends", ends, at::kInt, rows);
  check_shape(matrices.scales.sizes() == numbers.sizes().slice(0, 2), "scales are ", describe(matrices.scales), ", need [G, B] of numbers ",
              describe(numbers));
  if (matrices.activations != Int8Activations::kStatic) return;
  check_operand("input_scales", matrices.input_scales, at::kFloat, rows);
  check_shape(matrices.input_scales.numel() == numbers.size(0), "input_scales are ", describe(matrices.input_scales), ", need [G]");
}

}  // namespace

std::string int8_kernel(Int8Activations activations, at::ScalarType rows, c10::Device device, bool allow_slow) {
  const std::string missing = missing_on(activations, device);
  if (missing.empty()) {
    if (device.is_cpu()) return int8_tile_kernel(activations, rows);
    if (activations != Int8Activations::kNone) return "tensor cores (s8 x s8 -> s32)";
    return rows == at::kBFloat16 || rows == at::kHalf ? concat("tensor cores (", rows, " x widened s8)") : "libtorch mm of widened s8";
  }
  if (allow_slow) return "reference (plain float64 products of the integers)";
  throw ConfigError(concat("int8 products need ", missing,
                           ", which this machine does not have: compute where it is there, or let a plain loop do it, "
                           "many times slower, with model.quantization.allow_slow (pimoe quantize --allow-slow)"));
}

at::Tensor int8_linear(const at::Tensor& rows, const Int8Matrices& matrices, const at::Tensor& ends, at::ScalarType dtype) {
  check(rows, matrices, ends);
  if (ends.numel() > 0 && rows.size(0) > 0 && has_gpu_products(rows, matrices, dtype)) {
    at::Tensor output = at::empty({rows.size(0), matrices.numbers.size(1)}, rows.options().dtype(dtype).requires_grad(false));
    if (output.numel() > 0) gpu_products(rows, matrices, ends, output);
    return output;
  }
  const std::vector<int32_t> host = host_ends(ends, rows.size(0));
  const int64_t used = host.empty() ? 0 : host.back();
  at::Tensor output = at::empty({rows.size(0), matrices.numbers.size(1)}, rows.options().dtype(dtype).requires_grad(false));
  output.narrow(0, used, rows.size(0) - used).zero_();
  if (used == 0 || output.numel() == 0) return output;
  const bool missing = !missing_on(matrices.activations, rows.device()).empty();
  if (missing) int8_kernel(matrices.activations, rows.scalar_type(), rows.device(), matrices.allow_slow);  // refused here, or allowed
  if (!missing && rows.is_cpu()) {
    int8_linear_by_tiles(rows, matrices, host, output);
    return output;
  }
  int64_t begin = 0;
  for (int64_t group = 0; group < ends.numel(); ++group) {
    const int64_t count = host[static_cast<size_t>(group)] - begin;
    if (count > 0) {
      const at::Tensor part = rows.narrow(0, begin, count);
      output.narrow(0, begin, count).copy_(missing ? reference_product(part, matrices, group) : gpu_product(part, matrices, group));
    }
    begin += count;
  }
  return output;
}

Int8Numbers int8_numbers(const at::Tensor& values) {
  const at::Tensor wide = values.to(at::kFloat);
  if (wide.numel() == 0) {
    return {at::zeros(values.sizes(), values.options().dtype(at::kChar)),
            at::zeros(values.sizes().slice(0, values.dim() - 1), wide.options())};
  }
  const at::Tensor most = wide.abs().amax(-1);
  const at::Tensor finite = most.isfinite();
  return {rounded(wide, most / kMost), at::where(finite, most / kMost, at::full_like(most, std::numeric_limits<float>::quiet_NaN()))};
}

at::Tensor from_int8(const Int8Numbers& numbers) { return numbers.numbers.to(at::kFloat) * numbers.scales.unsqueeze(-1); }

}  // namespace pimoe
