#include "ops/int8_tiles.h"

#include "ops/int8_kernels.h"
#include "ops/launch.h"
#include "ops/tile_product.h"

#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>

namespace pimoe {
namespace {

using cpu::kFewRows;
using cpu::kPanel;

constexpr int64_t kBytes = 64;                // of a register: biased rows are filled up to it
constexpr int64_t kFewInAll = 8;              // rows of a group up to which dots along memory are faster than packing
constexpr int64_t kMostRows = 8 * kTileRows;  // of a task

#if PIMOE_HAS_TILE_MATH
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
}
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool has_amx_int8() { return __builtin_cpu_supports("amx-int8") != 0; }
bool has_amx_bfloat16() { return __builtin_cpu_supports("amx-bf16") != 0; }
#else
bool has_avx512() { return false; }
bool has_vnni() { return false; }
bool has_amx_int8() { return false; }
bool has_amx_bfloat16() { return false; }
#endif

/// sums [rows, kPanel] = left [rows, left_stride] times a packed panel of `fours` fours of terms
void multiply_panel(int64_t rows, int64_t fours, const uint8_t* left, int64_t left_stride, const uint32_t* panel, int32_t* sums) {
  at::native::cpublas::brgemm(rows, kPanel, 4 * fours, left_stride, kPanel, kPanel, false, left, reinterpret_cast<const int8_t*>(panel),
                              sums,
                              /*is_vnni=*/true);
}

/// As tile_product.cpp's: oneDNN may refuse, and a kernel for instructions that this code has not met is better asked than trusted.
bool probe() {
  if (!has_vnni()) return false;
  constexpr int64_t kRows = 16, kTerms = 68;
  std::vector<uint8_t> left;
  std::vector<int8_t> right;
  for (int64_t i = 0; i < kRows * kTerms; ++i) left.push_back(static_cast<uint8_t>(i * 7 % 256));
  for (int64_t i = 0; i < kPanel * kTerms; ++i) right.push_back(static_cast<int8_t>(i * 11 % 255 - 127));
  std::vector<uint32_t> panel(static_cast<size_t>(kTerms / 4 * kPanel));
  std::vector<int32_t> numbers(kPanel), sums(kRows * kPanel);
  cpu::pack_panel(right.data(), kTerms, kPanel, kTerms, panel.data(), numbers.data());
  try {
    const TileUnit unit;
    multiply_panel(kRows, kTerms / 4, left.data(), kTerms, panel.data(), sums.data());
  } catch (const std::exception&) {
    return false;
  }
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < kPanel; ++column) {
      int32_t sum = 0;
      for (int64_t k = 0; k < kTerms; ++k)
        sum += left[static_cast<size_t>(row * kTerms + k)] * right[static_cast<size_t>(column * kTerms + k)];
      if (sums[static_cast<size_t>(row * kPanel + column)] != sum) return false;
    }
  }
  return true;
}

bool has_int8_products() {
  static const bool works = probe();
  return works;
}

bool widens_to_bfloat16(at::ScalarType rows, int64_t terms) { return rows == at::kBFloat16 && terms % 2 == 0 && has_tile_product(); }

/// Some rows of a group, and a panel of its matrix' channels.
struct Task {
  int64_t group, begin, rows, column;
};

std::vector<Task> tasks_of(const std::vector<int32_t>& ends, int64_t columns) {
  std::vector<Task> tasks;
  int64_t begin = 0;
  for (size_t group = 0; group < ends.size(); ++group) {
    for (; begin < ends[group]; begin += std::min(kMostRows, ends[group] - begin)) {
      for (int64_t column = 0; column < columns; column += kPanel) {
        tasks.push_back({static_cast<int64_t>(group), begin, std::min(kMostRows, ends[group] - begin), column});
      }
    }
  }
  return tasks;
}

/// The rows as factors of int8 products.
struct BiasedRows {
  at::Tensor numbers;  ///< [R and those of a tile, stride] uint8
  at::Tensor scales;   ///< [R] float32
  int64_t stride;
};

/// Each row's number of the group that it belongs to.
std::vector<int32_t> groups_of(const std::vector<int32_t>& ends) {
  std::vector<int32_t> groups(static_cast<size_t>(ends.empty() ? 0 : ends.back()));
  int32_t begin = 0;
  for (size_t group = 0; group < ends.size(); ++group) {
    std::fill(groups.begin() + begin, groups.begin() + ends[group], static_cast<int32_t>(group));
    begin = ends[group];
  }
  return groups;
}

BiasedRows biased_rows(const at::Tensor& rows, const Int8Matrices& matrices, const std::vector<int32_t>& ends) {
  const int64_t count = ends.empty() ? 0 : ends.back();
  const int64_t terms = rows.size(1);
  const auto options = rows.options().requires_grad(false);
  // A product of a tile's rows reads on to a multiple of kRowStep, whatever is there; its sums are not looked at.
  BiasedRows result{{}, at::empty({count}, options.dtype(at::kFloat)), rounded_up(terms, kBytes)};
  result.numbers = at::empty({count + kTileRows, result.stride}, options.dtype(at::kByte));
  const std::vector<int32_t> groups = matrices.activations == Int8Activations::kStatic ? groups_of(ends) : std::vector<int32_t>();
  const float* const fixed = groups.empty() ? nullptr : matrices.input_scales.const_data_ptr<float>();
  auto* const numbers = result.numbers.mutable_data_ptr<uint8_t>();
  auto* const scales = result.scales.mutable_data_ptr<float>();
  const auto* const in = static_cast<const char*>(rows.const_data_ptr());
  const Dtype dtype = dtype_of(rows);
  parallel_rows(count, terms * rows.element_size(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const void* const from = in + row * terms * rows.element_size();
      const float most = cpu::largest_size(dtype, from, terms);
      float scale = fixed == nullptr ? most / 127.0F : fixed[groups[static_cast<size_t>(row)]];
      const float inverse = fixed == nullptr ? (most > 0 ? 127.0F / most : 0.0F) : (scale > 0 ? 1.0F / scale : 0.0F);
      if (!(most <= std::numeric_limits<float>::max())) scale = std::numeric_limits<float>::quiet_NaN();
      scales[row] = scale;
      cpu::biased_row(dtype, from, terms, inverse, numbers + row * result.stride, result.stride);
    }
  });
  return result;
}

/// A task's channels of its matrix.
struct Channels {
  Channels(const Int8Matrices& matrices, const Task& task)
      : terms(matrices.numbers.size(2)),
        columns(std::min(kPanel, matrices.numbers.size(1) - task.column)),
        numbers(matrices.numbers.const_data_ptr<int8_t>() + (task.group * matrices.numbers.size(1) + task.column) * terms),
        scales(matrices.scales.const_data_ptr<float>() + task.group * matrices.numbers.size(1) + task.column) {}
  int64_t terms, columns;
  const int8_t* numbers;
  const float* scales;
};

void* place_of(at::Tensor& output, int64_t row, int64_t column) {
  return static_cast<char*>(output.mutable_data_ptr()) + (row * output.size(1) + column) * output.element_size();
}

void multiply_integers(const at::Tensor& rows, const Int8Matrices& matrices, const std::vector<int32_t>& ends, at::Tensor& output) {
  const BiasedRows biased = biased_rows(rows, matrices, ends);
  const auto* const left = biased.numbers.const_data_ptr<uint8_t>();
  const auto* const row_scales = biased.scales.const_data_ptr<float>();
  const std::vector<Task> tasks = tasks_of(ends, output.size(1));
  const int64_t fours = (rows.size(1) + 3) / 4;
  const Dtype dtype = dtype_of(output);
  parallel_tasks(static_cast<int64_t>(tasks.size()), [&](int64_t begin, int64_t end) {
    const TileUnit unit;
    const TileRoom<uint32_t> panel(fours * kPanel);
    const TileRoom<int32_t> sums(kTileRows * kPanel), numbers(kPanel);
    for (int64_t index = begin; index < end; ++index) {
      const Task& task = tasks[static_cast<size_t>(index)];
      const Channels channels(matrices, task);
      const bool few = task.rows <= kFewInAll;
      if (!few) cpu::pack_panel(channels.numbers, channels.terms, channels.columns, channels.terms, panel.data(), numbers.data());
      const int64_t step = few ? kFewRows : kTileRows;
      for (int64_t done = 0; done < task.rows; done += step) {
        const int64_t row = task.begin + done;
        const int64_t count = std::min(step, task.rows - done);
        if (few) {
          cpu::few_dots(left + row * biased.stride, biased.stride, count, channels.numbers, channels.terms, channels.columns,
                        channels.terms, sums.data());
        } else {
          multiply_panel(rounded_up(count, kRowStep), fours, left + row * biased.stride, biased.stride, panel.data(), sums.data());
        }
        cpu::scale_sums(sums.data(), count, channels.columns, few ? nullptr : numbers.data(), row_scales + row, 1, channels.scales, dtype,
                        place_of(output, row, task.column), output.size(1));
      }
    }
  });
}

/// The rows of a tile where the product can read them: as they lie, or, if it would read past the last row, one below the other in `room`.
const uint16_t* tile_rows(const at::Tensor& rows, int64_t row, int64_t count, const TileRoom<uint16_t>& room) {
  const int64_t width = rows.size(1);
  if (row + rounded_up(count, kRowStep) <= rows.size(0)) return bits_of(rows) + row * width;
  std::copy_n(bits_of(rows) + row * width, count * width, room.data());
  return room.data();
}

/// @param rows  [R, A] bfloat16 where that is what panels are widened to, else float32
void multiply_wide(const at::Tensor& rows, const at::Tensor& float_rows, const Int8Matrices& matrices, const std::vector<int32_t>& ends,
                   at::Tensor& output) {
  const bool by_pairs = rows.scalar_type() == at::kBFloat16;
  const int64_t terms = rows.size(1);
  const std::vector<Task> tasks = tasks_of(ends, output.size(1));
  const Dtype dtype = dtype_of(output);
  parallel_tasks(static_cast<int64_t>(tasks.size()), [&](int64_t begin, int64_t end) {
    const TileUnit unit;
    const TileRoom<uint32_t> pairs(by_pairs ? rounded_up(terms, 4) / 2 * kPanel : 0);
    const TileRoom<float> floats(by_pairs ? 0 : terms * kPanel);
    const TileRoom<uint16_t> room = TileRoom<uint16_t>::zeros(by_pairs ? kTileRows * terms : 0);
    const TileRoom<float> sums(kTileRows * kPanel), few_rows(kFewRows * terms);
    for (int64_t index = begin; index < end; ++index) {
      const Task& task = tasks[static_cast<size_t>(index)];
      const Channels channels(matrices, task);
      const bool few = task.rows <= kFewInAll;
      if (!few && by_pairs) cpu::widen_panel(channels.numbers, terms, channels.columns, terms, pairs.data());
      if (!few && !by_pairs) cpu::widen_panel(channels.numbers, terms, channels.columns, terms, floats.data());
      const int64_t step = few ? kFewRows : kTileRows;
      for (int64_t done = 0; done < task.rows; done += step) {
        const int64_t row = task.begin + done;
        const int64_t count = std::min(step, task.rows - done);
        if (few) {
          cpu::few_dots(float_rows.const_data_ptr<float>() + row * terms, terms, count, channels.numbers, terms, channels.columns, terms,
                        sums.data());
        } else if (by_pairs) {
          multiply_block(rounded_up(count, kRowStep), kPanel, terms, tile_rows(rows, row, count, room), terms, pairs.data(), kPanel,
                         sums.data(), kPanel, false);
        } else {
          at::native::cpublas::brgemm(count, kPanel, terms, terms, kPanel, kPanel, false, rows.const_data_ptr<float>() + row * terms,
                                      floats.data(), sums.data(), /*is_vnni=*/false);
        }
        cpu::scale_sums(sums.data(), count, channels.columns, channels.scales, dtype, place_of(output, row, task.column), output.size(1));
      }
    }
  });
}

}  // namespace

std::string missing_for_int8(Int8Activations activations) {
  if (activations == Int8Activations::kNone) return has_avx512() ? "" : "AVX-512 (F, BW, VL, DQ)";
  if (!has_vnni()) return "AVX512_VNNI (with or without AMX_INT8)";
  return has_int8_products() ? "" : "oneDNN's int8 products, which this environment forbids or gets wrong (ONEDNN_MAX_CPU_ISA?)";
}

std::string int8_tile_kernel(Int8Activations activations, at::ScalarType rows) {
  if (activations == Int8Activations::kNone) {
    if (rows != at::kBFloat16 || !has_tile_product()) return "avx512 (oneDNN, float32 x widened s8)";
    return has_amx_bfloat16() ? "amx_bf16 (oneDNN, bfloat16 x widened s8)" : "avx512_bf16 (oneDNN, bfloat16 x widened s8)";
  }
  return has_amx_int8() ? "amx_int8 (oneDNN, u8 x s8 -> s32)" : "avx512_vnni (oneDNN, u8 x s8 -> s32)";
}

void int8_linear_by_tiles(const at::Tensor& rows, const Int8Matrices& matrices, const std::vector<int32_t>& ends, at::Tensor& output) {
  if (matrices.activations != Int8Activations::kNone) return multiply_integers(rows, matrices, ends, output);
  const bool by_pairs = widens_to_bfloat16(rows.scalar_type(), rows.size(1));
  // Groups of few rows are multiplied in float32.
  const at::Tensor floats = rows.to(at::kFloat);
  multiply_wide(by_pairs ? rows : floats, floats, matrices, ends, output);
}

}  // namespace pimoe
