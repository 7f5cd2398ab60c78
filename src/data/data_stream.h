#pragma once

#include "base/config_fields.h"
#include "data/token_file.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// `data:` in the configuration.
struct DataConfig {
  std::string train;       ///< PREFIX of PREFIX.bin / PREFIX.idx
  std::string validation;  ///< PREFIX, or empty for none
  std::string tokenizer;   ///< SentencePiece model or tokenizer.json, or empty

  void fields(FieldVisitor& visit);
};

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
  at::Tensor targets;  ///< [B, S] int64: the token after each position
  int64_t micro_step = 0;
  int64_t first_sequence = 0;    ///< within the step's global batch, of this rank's first
  int64_t global_sequences = 0;  ///< of this micro-step, over all ranks
  bool is_last = false;          ///< of the step
};

/// Reads sample n of an endless, shuffled stream: a function of (seed, n) and the corpus alone, so that the global batches are the same for
/// every world size.
///
/// The corpus is one stream of tokens (documents packed, each with its end-of-document token). In each epoch it is cut into samples of
/// S + 1 tokens, neighbours sharing one token, from a random first position below S (so that the cuts differ between epochs), and the
/// samples are permuted in O(1) memory. What is left over at both ends, fewer than 2 S tokens, sits out that epoch. Thread-safe.
class SampleReader {
 public:
  /// @param corpus   must outlive the reader
  /// @param shuffle  false: samples in corpus order from position 0 (validation)
  /// @throws DataError if the corpus is shorter than S + 1 tokens.
  SampleReader(const TokenFile& corpus, int64_t sequence_length, uint64_t seed, bool shuffle);
  int64_t samples_per_epoch() const { return samples_per_epoch_; }
  /// @returns the stream position of the first token of sample n >= 0.
  int64_t begin_of(int64_t sample) const;
  /// Copies the S + 1 tokens of sample n >= 0.
  void read(int64_t sample, int64_t* out) const;

 private:
  const TokenFile& corpus_;
  int64_t sequence_length_;
  bool shuffle_;
  uint64_t order_key_;
  uint64_t first_position_key_;
  int64_t samples_per_epoch_;
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
  bool prefetch = true;                              ///< a thread of its own reads ahead
  std::function<at::Tensor(const at::Tensor&)> pin;  ///< page-locks host memory; null: leave as it is
};

/// The training data of one rank, step by step, read ahead by a thread (two steps at most are in memory). To be used from one thread.
class DataStream {
 public:
  /// @throws DataError for a damaged corpus, one shorter than S + 1 tokens, or a cursor below 0.
  DataStream(const std::filesystem::path& prefix, DataStreamOptions options, DataCursor start);
  ~DataStream();

  /// @returns the next step's micro-batches of this rank: StepPlan::micro_steps() of them, empty ones included.
  /// @throws DataError from the reading thread, after the steps that were read before it; again at every later call.
  std::vector<MicroBatch> next_step();
  /// Where a checkpoint taken now would resume: after the steps handed out.
  DataCursor cursor() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pimoe
