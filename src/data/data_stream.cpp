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
#include "base/text.h"
#include "data/document_starts.h"

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

struct DataStream::State {
  using Step = std::vector<MicroBatch>;

  State(const std::vector<BlendedCorpus>& corpora, DataStreamOptions given, DataCursor start)
      : options(std::move(given)),
        samples(corpora, options.sequence_length, options.seed, options.shuffle, options.samples),
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

  /// Rows of whole documents, or with targets that do not count.
  void read_rows(int64_t first_sample, MicroBatch& batch) const {
    const int64_t count = batch.tokens.size(0);
    const int64_t length = options.sequence_length;
    batch.counted = at::empty({count, length}, at::kBool);
    RowDocuments documents(length);
    for (int64_t i = 0; i < count; ++i) {
      SampleRow row{.tokens = batch.tokens.mutable_data_ptr<int64_t>() + i * length,
                    .targets = batch.targets.mutable_data_ptr<int64_t>() + i * length,
                    .counted = batch.counted.mutable_data_ptr<bool>() + i * length};
      samples.read_row(first_sample + i, options.vocabulary, row);
      documents.add_row(row.begins);
    }
    if (!samples.fills_up()) batch.counted = at::Tensor();
    if (samples.keeps_documents_apart()) batch.documents = documents.starts();
  }

  MicroBatch read_micro_batch(int64_t step_first_sample, int64_t micro_step) const {
    const int64_t length = options.sequence_length;
    const auto [first, count] = plan.share(micro_step, options.rank);
    MicroBatch batch;
    batch.tokens = at::empty({count, length}, at::kLong);
    batch.targets = at::empty({count, length}, at::kLong);
    auto* tokens = batch.tokens.data_ptr<int64_t>();
    auto* targets = batch.targets.data_ptr<int64_t>();
    std::vector<int64_t> sample(static_cast<size_t>(length) + 1);
    if (!samples.is_plain()) read_rows(step_first_sample + first, batch);
    for (int64_t i = 0; i < count && samples.is_plain(); ++i) {
      samples.read(step_first_sample + first + i, options.vocabulary, sample.data());
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
  const SampleBlend samples;
  const StepPlan plan;
  DataCursor cursor;  ///< of the caller's thread; the reading thread counts for itself

  std::mutex mutex;  ///< guards ready, error and is_stopping
  std::condition_variable changed;
  std::deque<Step> ready;
  std::exception_ptr error;
  bool is_stopping = false;
  std::thread thread;
};

DataStream::DataStream(const std::vector<BlendedCorpus>& corpora, DataStreamOptions options, DataCursor start)
    : state_(std::make_unique<State>(corpora, std::move(options), start)) {}
DataStream::DataStream(const std::filesystem::path& prefix, DataStreamOptions options, DataCursor start)
    : DataStream(std::vector<BlendedCorpus>{{.prefix = prefix.string()}}, std::move(options), start) {}
DataStream::~DataStream() = default;

std::vector<MicroBatch> DataStream::next_step() {
  std::vector<MicroBatch> step = state_->options.prefetch ? state_->take() : state_->read_step(state_->cursor.next_sample);
  state_->cursor.next_sample += state_->options.global_batch;
  return step;
}

DataCursor DataStream::cursor() const { return state_->cursor; }
const SampleBlend& DataStream::samples() const { return state_->samples; }

}  // namespace pimoe
