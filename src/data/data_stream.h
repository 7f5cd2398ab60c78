#pragma once

#include "data/data_config.h"
#include "data/sample_blend.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// Where a run stands in its data: the number of sequences that all ranks together have consumed. Any world size resumes at it.
struct DataCursor {
  int64_t next_sample = 0;
};

/// Which sequences of a step a rank computes, and in which micro-step.
///
/// A step's sequences [0, global_batch) are cut into M micro-steps as evenly as can be (sizes differ by at most one), and each micro-step's
/// sequences over the ranks in the same way, in order. M is the smallest number for which no rank ever holds more than micro_batch; all
/// ranks make M micro-steps, empty ones included. At equal M a micro-step holds the same sequences in every layout.
struct StepPlan {
  /// @param global_batch >= 1, ranks >= 1, micro_batch >= 1
  StepPlan(int64_t global_batch, int ranks, int64_t micro_batch);

  int64_t micro_steps() const { return micro_steps_; }
  /// @returns {first, count} of the sequences, within the step, that `rank` computes in `micro_step`.
  std::pair<int64_t, int64_t> share(int64_t micro_step, int rank) const;
  /// @returns how many sequences all ranks together compute in `micro_step`.
  int64_t micro_step_sequences(int64_t micro_step) const;

 private:
  int64_t global_batch_;
  int ranks_;
  int64_t micro_steps_;
};

/// What one rank computes at a time.
struct MicroBatch {
  at::Tensor tokens;   ///< [B, S] int64 on the host (page-locked where asked for); B may be 0
  at::Tensor targets;  ///< [B, S] int64: the token after each position; -1: does not count
  int64_t micro_step = 0;
  int64_t first_sequence = 0;    ///< within the step's global batch, of this rank's first
  int64_t global_sequences = 0;  ///< of this micro-step, over all ranks
  bool is_last = false;          ///< of the step
  /// [N + 1] int32 on the host: where documents that attend to themselves alone begin among the B S tokens, and B S behind the last; every row
  /// begins one. Undefined: each row is one.
  at::Tensor documents = {};
  at::Tensor counted = {};  ///< [B, S] bool on the host: false where a row is filled up; undefined: no row is
};

struct DataStreamOptions {
  int64_t sequence_length = 0;
  int64_t vocabulary = 0;  ///< an id at or above it is a DataError with file, position and id
  int64_t global_batch = 0;
  int64_t micro_batch = 0;
  uint64_t seed = 0;
  int rank = 0;
  int ranks = 1;
  bool shuffle = true;
  SampleChoice samples = {};                         ///< rows of documents, targets that count; as it is: a stream of which all counts
  bool prefetch = true;                              ///< a thread of its own reads ahead
  std::function<at::Tensor(const at::Tensor&)> pin;  ///< page-locks host memory; null: leave as it is
};

/// The training data of one rank, step by step, read ahead by a thread (two steps at most are in memory). To be used from one thread.
class DataStream {
 public:
  /// @throws DataError for a damaged corpus, one shorter than S + 1 tokens, or a cursor below 0; ConfigError as SampleBlend
  DataStream(const std::vector<BlendedCorpus>& corpora, DataStreamOptions options, DataCursor start);
  /// The same of one corpus.
  DataStream(const std::filesystem::path& prefix, DataStreamOptions options, DataCursor start);
  ~DataStream();

  /// @returns the next step's micro-batches of this rank: StepPlan::micro_steps() of them, empty ones included.
  /// @throws DataError from the reading thread, after the steps that were read before it; again at every later call.
  std::vector<MicroBatch> next_step();
  /// Where a checkpoint taken now would resume: after the steps handed out.
  DataCursor cursor() const;
  const SampleBlend& samples() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pimoe
