#include "data/data_stream.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "base/errors.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/text.h"

namespace pimoe {
namespace {

constexpr size_t kStepsReadAhead = 2;

/// @returns {first, count} of part `index` of [0, total) cut into `parts` whose sizes differ by at most one, larger ones first.
std::pair<int64_t, int64_t> even_part(int64_t total, int64_t parts, int64_t index) {
  const int64_t smaller = total / parts;
  const int64_t larger_parts = total % parts;
  return {index * smaller + std::min(index, larger_parts), smaller + (index < larger_parts ? 1 : 0)};
}

}  // namespace

void DataConfig::fields(FieldVisitor& visit) {
  visit.text("train", train, "PREFIX of the training corpus, PREFIX.bin and PREFIX.idx");
  visit.text("validation", validation, "PREFIX of the validation corpus; empty for none");
  visit.text("tokenizer", tokenizer, "SentencePiece model or tokenizer.json of the corpus; empty for none");
}

StepPlan::StepPlan(int64_t global_batch, int ranks, int64_t micro_batch) : global_batch_(global_batch), ranks_(ranks) {
  // A micro-batch above the global one means the same and could overflow the product.
  const int64_t at_once = ranks * std::min(micro_batch, global_batch);
  micro_steps_ = (global_batch + at_once - 1) / at_once;
}

std::pair<int64_t, int64_t> StepPlan::share(int64_t micro_step, int rank) const {
  const auto [step_first, step_count] = even_part(global_batch_, micro_steps_, micro_step);
  const auto [first, count] = even_part(step_count, ranks_, rank);
  return {step_first + first, count};
}

int64_t StepPlan::micro_step_sequences(int64_t micro_step) const { return even_part(global_batch_, micro_steps_, micro_step).second; }

SampleReader::SampleReader(const TokenFile& corpus, int64_t sequence_length, uint64_t seed, bool shuffle)
    : corpus_(corpus),
      sequence_length_(sequence_length),
      shuffle_(shuffle),
      order_key_(named_key(seed, "data.order")),
      first_position_key_(named_key(seed, "data.first_position")) {
  const int64_t tokens = corpus.token_count();
  if (tokens < sequence_length + 1) {
    throw DataError(concat(corpus.prefix().string(), " has ", grouped(tokens), " tokens; model.sequence_length (", sequence_length,
                           ") needs at least ", grouped(sequence_length + 1), ": take shorter sequences or a larger corpus"));
  }
  // Shuffled, every first position below S must leave the same number of samples; a corpus too short for that gives one.
  samples_per_epoch_ = shuffle ? std::max<int64_t>(1, (tokens - sequence_length) / sequence_length) : (tokens - 1) / sequence_length;
}

int64_t SampleReader::begin_of(int64_t sample) const {
  const int64_t index = sample % samples_per_epoch_;
  if (!shuffle_) return index * sequence_length_;
  const auto epoch = static_cast<uint64_t>(sample / samples_per_epoch_);
  const int64_t first_positions = std::min(sequence_length_, corpus_.token_count() - samples_per_epoch_ * sequence_length_);
  const auto first = static_cast<int64_t>(random_bits(first_position_key_, epoch) % static_cast<uint64_t>(first_positions));
  const Permutation order(random_bits(order_key_, epoch), static_cast<uint64_t>(samples_per_epoch_));
  return first + static_cast<int64_t>(order(static_cast<uint64_t>(index))) * sequence_length_;
}

void SampleReader::read(int64_t sample, int64_t* out) const { corpus_.read(begin_of(sample), sequence_length_ + 1, out); }

struct DataStream::State {
  using Step = std::vector<MicroBatch>;

  State(const std::filesystem::path& prefix, DataStreamOptions given, DataCursor start)
      : options(std::move(given)),
        corpus(prefix),
        reader(corpus, options.sequence_length, options.seed, options.shuffle),
        plan(options.global_batch, options.ranks, options.micro_batch),
        cursor(start) {
    if (start.next_sample < 0) throw DataError(concat("the data cursor (", start.next_sample, ") must not be negative"));
    if (options.prefetch) thread = std::thread([this, first = start.next_sample] { read_ahead(first); });
  }

  ~State() {
    {
      const std::lock_guard lock(mutex);
      is_stopping = true;
    }
    changed.notify_all();
    if (thread.joinable()) thread.join();
  }

  State(const State&) = delete;
  State& operator=(const State&) = delete;

  MicroBatch read_micro_batch(int64_t step_first_sample, int64_t micro_step) const {
    const int64_t length = options.sequence_length;
    const auto [first, count] = plan.share(micro_step, options.rank);
    MicroBatch batch;
    batch.tokens = at::empty({count, length}, at::kLong);
    batch.targets = at::empty({count, length}, at::kLong);
    auto* tokens = batch.tokens.data_ptr<int64_t>();
    auto* targets = batch.targets.data_ptr<int64_t>();
    std::vector<int64_t> sample(static_cast<size_t>(length) + 1);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = reader.begin_of(step_first_sample + first + i);
      corpus.read(begin, length + 1, sample.data());
      corpus.require_ids_below(options.vocabulary, begin, sample.data(), length + 1);
      std::copy(sample.begin(), sample.end() - 1, tokens + i * length);
      std::copy(sample.begin() + 1, sample.end(), targets + i * length);
    }
    if (options.pin && count > 0) {
      batch.tokens = options.pin(batch.tokens);
      batch.targets = options.pin(batch.targets);
    }
    batch.micro_step = micro_step;
    batch.first_sequence = first;
    batch.global_sequences = plan.micro_step_sequences(micro_step);
    batch.is_last = micro_step + 1 == plan.micro_steps();
    return batch;
  }

  Step read_step(int64_t first_sample) const {
    Step step;
    for (int64_t micro_step = 0; micro_step < plan.micro_steps(); ++micro_step) {
      step.push_back(read_micro_batch(first_sample, micro_step));
    }
    return step;
  }

  /// The reading thread.
  void read_ahead(int64_t first_sample) {
    const ProgressOfThread ahead(ProgressSlot::kAhead);
    while (true) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [this] { return is_stopping || ready.size() < kStepsReadAhead; });
        if (is_stopping) return;
      }
      Step step;
      std::exception_ptr failed;
      try {
        step = read_step(first_sample);
      } catch (...) {
        failed = std::current_exception();
      }
      first_sample += options.global_batch;
      {
        const std::lock_guard lock(mutex);
        error = failed;
        if (!failed) ready.push_back(std::move(step));
      }
      changed.notify_all();
      if (failed) return;
    }
  }

  Step take() {
    const PatientOperation on_files;  // a slow disk is no hang
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return !ready.empty() || error; });
    if (ready.empty()) std::rethrow_exception(error);
    Step step = std::move(ready.front());
    ready.pop_front();
    lock.unlock();
    changed.notify_all();
    return step;
  }

  const DataStreamOptions options;
  const TokenFile corpus;
  const SampleReader reader;
  const StepPlan plan;
  DataCursor cursor;  ///< of the caller's thread; the reading thread counts for itself

  std::mutex mutex;  ///< guards ready, error and is_stopping
  std::condition_variable changed;
  std::deque<Step> ready;
  std::exception_ptr error;
  bool is_stopping = false;
  std::thread thread;
};

DataStream::DataStream(const std::filesystem::path& prefix, DataStreamOptions options, DataCursor start)
    : state_(std::make_unique<State>(prefix, std::move(options), start)) {}
DataStream::~DataStream() = default;

std::vector<MicroBatch> DataStream::next_step() {
  std::vector<MicroBatch> step = state_->options.prefetch ? state_->take() : state_->read_step(state_->cursor.next_sample);
  state_->cursor.next_sample += state_->options.global_batch;
  return step;
}

DataCursor DataStream::cursor() const { return state_->cursor; }

}  // namespace pimoe
