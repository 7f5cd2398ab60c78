#pragma once

#include "base/box.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace pimoe {

/// One stretch of one logical tensor of the training state, as this rank holds it.
struct StatePiece {
  std::string kind;  ///< which tensor of the parameter; training's kinds are in training_state.h
  Piece piece;
  at::Tensor values;  ///< [piece.numel()], flat and contiguous, any device; aliases live state: written by save, filled in place by restore
  bool optional = false;  ///< restoring leaves it as it is where the checkpoint has no such tensor; saving writes it like any other
};

/// Everything that a resumed run needs. Tensors are sharded (each rank brings its pieces; together they cover each logical tensor, copies
/// allowed); the rest is the same on every rank.
struct Snapshot {
  int64_t step = 0;                       ///< steps done
  std::map<std::string, double> numbers;  ///< restored bit-exactly
  std::map<std::string, int64_t> counters;
  std::string config;  ///< the resolved configuration, YAML
  std::vector<StatePiece> pieces;
};

}  // namespace pimoe
