#pragma once

/// Small training states whose every element tells which one it is, and folders that vanish with their test.

#include "base/digest.h"
#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/local_save.h"
#include "checkpoint/shard_plan.h"
#include "checkpoint/snapshot.h"
#include "support/temporary_folder.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

namespace pimoe {

/// The value of an element of a logical tensor: a whole number below 251, exact in every dtype.
inline double element_value(const std::string& kind, const std::string& name, int64_t global_element, int64_t salt = 0) {
  const auto size = static_cast<int64_t>(kind.size() * 5 + name.size());
  return static_cast<double>((global_element * 7 + size * 3 + salt * 11) % 251);
}

/// A piece with its elements' values.
inline StatePiece filled(const std::string& kind, Piece piece, at::ScalarType dtype, int64_t salt = 0) {
  at::Tensor values = at::empty({piece.numel()}, at::TensorOptions().dtype(at::kDouble));
  double* const out = values.mutable_data_ptr<double>();
  for (const Run& run : runs_of(piece)) {
    for (int64_t i = 0; i < run.length; ++i) out[run.local_begin + i] = element_value(kind, piece.name, run.global_begin + i, salt);
  }
  return {kind, std::move(piece), values.to(dtype)};
}

/// A piece of -1 (255), for restore to fill.
inline StatePiece blank(const std::string& kind, Piece piece, at::ScalarType dtype) {
  const int64_t count = piece.numel();
  return {kind, std::move(piece), at::full({count}, dtype == at::kByte ? 255 : -1, at::TensorOptions().dtype(dtype))};
}

/// @returns "" or the first element that is not element_value's.
inline std::string wrong_element(const StatePiece& state, int64_t salt = 0) {
  const at::Tensor values = state.values.detach().to(at::kDouble);
  const double* const found = values.const_data_ptr<double>();
  for (const Run& run : runs_of(state.piece)) {
    for (int64_t i = 0; i < run.length; ++i) {
      const double expected = element_value(state.kind, state.piece.name, run.global_begin + i, salt);
      if (found[run.local_begin + i] != expected) {
        return concat(state.kind, "/", state.piece.name, ": element ", run.global_begin + i, " is ", found[run.local_begin + i], ", not ",
                      expected);
      }
    }
  }
  return "";
}

/// Five tensors of four number formats, some in pieces cut at odd places and along rows. `salt` changes every value.
inline Snapshot tiny_snapshot(int64_t step, int64_t salt = 0) {
  Snapshot snapshot;
  snapshot.step = step;
  snapshot.numbers = {{"loss_scale", 65536.0}, {"tokens_seen", 0.1 + 0.2}};
  snapshot.counters = {{"next_sample", 1600}};
  snapshot.config = "run: {seed: 1234}\n";
  const Box experts = Box::whole({4, 2, 3});
  const Box upper = Box::rows({4, 2, 3}, 2, 2);
  snapshot.pieces.push_back(filled("master", {"layers.0.norm", Box::whole({6}), 0, 6}, at::kFloat, salt));
  snapshot.pieces.push_back(filled("master", {"layers.0.experts", experts, 0, 7}, at::kFloat, salt));
  snapshot.pieces.push_back(filled("master", {"layers.0.experts", experts, 7, 13}, at::kFloat, salt));
  snapshot.pieces.push_back(filled("master", {"layers.0.experts", upper, 0, 12}, at::kFloat, salt));
  snapshot.pieces.push_back(filled("exp_avg", {"layers.0.experts", experts, 0, 24}, at::kBFloat16, salt));
  snapshot.pieces.push_back(filled("state", {"layers.0.router_bias", Box::whole({4}), 0, 4}, at::kDouble, salt));
  snapshot.pieces.push_back(filled("state", {"calls", Box::whole({}), 0, 1}, at::kLong, salt));
  return snapshot;
}

/// The same tensors in other pieces, blank.
inline Snapshot tiny_wanted() {
  Snapshot wanted;
  wanted.numbers = {{"loss_scale", 0.0}};
  for (const int64_t row : {0, 1, 2, 3}) {
    wanted.pieces.push_back(blank("master", {"layers.0.experts", Box::rows({4, 2, 3}, row, 1), 0, 6}, at::kFloat));
  }
  wanted.pieces.push_back(blank("master", {"layers.0.norm", Box::whole({6}), 0, 5}, at::kFloat));
  wanted.pieces.push_back(blank("master", {"layers.0.norm", Box::whole({6}), 5, 6}, at::kFloat));
  wanted.pieces.push_back(blank("exp_avg", {"layers.0.experts", {{4, 2, 3}, {1, 0, 1}, {2, 2, 2}}, 1, 7}, at::kBFloat16));
  wanted.pieces.push_back(blank("state", {"layers.0.router_bias", Box::whole({4}), 1, 3}, at::kDouble));
  wanted.pieces.push_back(blank("state", {"calls", Box::whole({}), 0, 1}, at::kLong));
  return wanted;
}

/// Saves a state as one rank does. @throws SaveError
inline void save_snapshot(const std::filesystem::path& checkpoint, const Snapshot& snapshot, int64_t part_bytes = int64_t{1} << 30) {
  Manifest manifest{.step = snapshot.step,
                    .ranks = 1,
                    .expert_parallel = 1,
                    .config = snapshot.config,
                    .numbers = snapshot.numbers,
                    .counters = snapshot.counters,
                    .files = {},
                    .pieces = {}};
  write_checkpoint(checkpoint, std::move(manifest), [&](ShardWriter& writer) {
    size_t part = 0;
    for (const std::vector<StatePiece>& pieces : plan_parts(pieces_to_store(snapshot.pieces), part_bytes)) {
      writer.add(shard_name(0, 1, part++), pieces);
    }
  });
}

/// @returns the manifest text with a digest that fits its content again: what a careless or hostile writer could make.
inline std::string signed_again(const std::string& changed) {
  const std::string key = ",\n\"sha256\": \"";
  const std::string body = changed.substr(0, changed.rfind(key));
  return body + key + sha256(body.data(), body.size()) + "\"}\n";
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_text(const std::filesystem::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

}  // namespace pimoe
