#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace pimoe {

/// Tensors begin at multiples of so many elements in the flat ones: whole packs of the widest loads, whatever the type, and an element is then
/// computed alike wherever a slice is cut.
inline constexpr int64_t kFlatAlignment = 64;

/// What AdamW keeps of N neighbouring parameters: flat, contiguous, on one device, each tensor at a multiple of 16 bytes.
struct AdamwState {
  at::Tensor master;      ///< [N] float32 or float64
  at::Tensor exp_avg;     ///< [N] like the master; so is what follows
  at::Tensor exp_avg_sq;  ///< [N]
  at::Tensor weights;     ///< [N] float16 or bfloat16, the master rounded; undefined: the master is the weight
};

struct AdamwStep {
  int64_t number = 1;  ///< of the step, from 1 on: of the bias corrections
  double learning_rate = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  double gradient_factor = 1.0;  ///< of clipping and of the loss scale
};

/// Sums of the bits of masters and moments, by which the next pass over them knows whether they are what the last one left.
///
/// Summed are, chunk by chunk, 32-bit words times 2 i + 1, i counted from the chunk's begin. Whole numbers: the same in any order. No sum
/// is as large as 2^60, and one flipped bit, or any two, change it: 2^k (2 i + 1) = 2^l (2 j + 1) only for k = l and i = j.
struct AdamwSums {
  /// Of a state that is all zeros. @param firsts  the first element of each tensor in the flat ones: ascending multiples of kFlatAlignment, 0 first; a
  /// chunk lies in one of them. None: nothing is updated or summed  @param found  [1] int64, on the state's device: counts what was found, here and in other sums that have it
  AdamwSums(const std::vector<int64_t>& firsts, int64_t numel, const at::Tensor& found);

  std::vector<int64_t> begins;  ///< chunk c is the elements [begins[c], begins[c + 1])
  at::Tensor device_begins;     ///< the same as a tensor
  at::Tensor sums;              ///< [C, 3] int64: of master, exp_avg, exp_avg_sq
  at::Tensor changed;           ///< [C] uint8: bits 0, 1, 2 say which of them were found changed; stays until it is zeroed
  at::Tensor found;             ///< [1] int64
};

/// One step of AdamW, in place, and the state's sums of before and after.
///
///     g = gradient_factor * gradient
///     m = m + (1 - beta1) (g - m)          v = beta2 v + (1 - beta2) g^2
///     w = (1 - learning_rate weight_decay) w - learning_rate / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + epsilon)
///
/// @param gradient  [N] like the master; read alone
/// @param sums      compared with the state as it was read, then those of the state as it was written
/// @throws ShapeError
/// @cost one pass: reads four numbers of each parameter, writes three and the rounded weight. No temporary tensors, no host synchronisation.
/// @source arXiv 1711.05101, algorithm 2.
void adamw(const AdamwStep& step, const at::Tensor& gradient, const AdamwState& state, AdamwSums& sums);

/// Compares the sums with the state as it is now, and makes them those of now. @throws ShapeError @cost reads three numbers of each parameter
void compare_state(const AdamwState& state, AdamwSums& sums);

}  // namespace pimoe
