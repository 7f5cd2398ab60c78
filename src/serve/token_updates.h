#pragma once

#include "serve/scheduler.h"
#include "serve/served_model.h"
#include "serve/step_runner.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace pimoe {

/// A step's scores with the largest of each row, found for all rows at once.
struct RankedScores {
  explicit RankedScores(StepScores scores);

  at::Tensor logits;   ///< [Q, V]
  at::Tensor experts;  ///< [Q, layers, K] or undefined
  at::Tensor largest;  ///< [Q] scores
  at::Tensor greedy;   ///< [Q] int64: of equals the first
};

/// Draws the next token of a text whose tokens are all computed, and puts together what its listener hears.
/// @param part   that a step has computed, counted in text.kept already
/// @param row    its first row of the scores
/// @returns an update that may be empty; with an ending where the text ends
GenerationUpdate update_of(ServedText& text, const TextPart& part, const RankedScores& scores, int64_t row, const TokenTexts& texts);

/// Of a text that has nothing to be computed: it scores a prompt of one token, or asks for nothing.
GenerationUpdate update_without_step(ServedText& text, const TokenTexts& texts);

}  // namespace pimoe
