#pragma once

#include "model/sampling.h"
#include "model/transformer.h"
#include "parallel/process_mesh.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace pimoe {

struct GenerationOptions {
  SamplingOptions sampling;
  int64_t batch = 8;   ///< sequences that a rank continues at a time, at most: each has a place in the cache
  bool cached = true;  ///< false: every token computes all before it again, as a reference
};

/// Why a continuation has ended.
enum class Ending {
  kTokens,     ///< there are as many tokens as were asked for
  kStopToken,  ///< the stop token was drawn
  kStopped,    ///< the caller said so
};

struct Continuation {
  std::vector<int32_t> tokens;  ///< the new ones alone
  Ending ending = Ending::kTokens;
  int64_t forgotten = 0;  ///< tokens at the beginning that the model no longer saw at the end, because it sees sequence_length at a time
};

/// Asked after each new token of a prompt, on the rank that continues it. @returns whether the continuation ends with it
using ContinuationEnds = std::function<bool(size_t prompt, const std::vector<int32_t>& added)>;

/// Whether what a token's experts are depends on what else is computed with it: such models are continued one sequence at a time, without a cache.
bool routes_by_batch(const MoeConfig& moe);

/// Takes out of a configuration what models are trained with and not continued with: what a token gets must not depend on which others happen to be
/// computed with it. @returns a line for each setting that was on, and for one that stays and makes every token cost as much as its text
std::vector<std::string> leave_out_what_batches_change(ModelConfig& config);

/// Continues prompts: rank r of P those with index r, r + P, ..., `batch` at a time, and the next as soon as one has ended. Collective; the
/// same on every rank.
///
/// A token is computed once and its keys and values are kept, up to position sequence_length. Behind that the model sees the last
/// sequence_length tokens, whose positions move with each new one: from there on each token computes all of them again.
/// Draws are keyed by (seed, prompt, token), so that ranks and batch do not matter to them.
/// @param prompts  one token or more each, in [0, vocabulary); without a token a ShapeError
/// @param ends     null: nothing ends early but the stop token
/// @cost a forward pass for each token of the longest sequence, of as many tokens as sequences; on several ranks one number each on the control group
std::vector<Continuation> continue_prompts(const Transformer& model, const std::vector<std::vector<int32_t>>& prompts,
                                           const ProcessMesh& mesh, const GenerationOptions& options,
                                           const ContinuationEnds& ends = nullptr);

}  // namespace pimoe
