#include "data/corpus_sink.h"

#include "base/errors.h"
#include "base/random.h"
#include "base/text.h"
#include "data/token_file_format.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTraining = "training";
constexpr const char* kValidation = "validation";

TokenFileWriter::Position position_in(const BuildState& state, const char* part) {
  const auto found = state.parts.find(part);
  return found == state.parts.end() ? TokenFileWriter::Position() : found->second;
}

fs::path validation_of(const CorpusOptions& options) { return index_format::part_name(options.output, "-validation"); }

}  // namespace

CorpusSink::CorpusSink(const CorpusOptions& options, int64_t vocabulary)
    : options_(options), split_key_(named_key(options.seed, "data.validation")), training_(options.output, vocabulary, /*with_mask=*/true) {
  if (options.validation > 0) validation_.emplace(validation_of(options), vocabulary, /*with_mask=*/true);
}

CorpusSink::CorpusSink(const CorpusOptions& options, int64_t vocabulary, const fs::path& folder, const BuildState& state)
    : options_(options),
      split_key_(named_key(options.seed, "data.validation")),
      training_(options.output, vocabulary, folder / kTraining, position_in(state, kTraining)),
      document_(state.documents) {
  if (options.validation > 0) {
    validation_.emplace(validation_of(options), vocabulary, folder / kValidation, position_in(state, kValidation));
  }
  training_.read_back([this](const std::vector<int32_t>& ids) { count(ids); });
}

void CorpusSink::add(const std::vector<int32_t>& ids, bool ends_document, const std::vector<uint8_t>& learned) {
  const bool goes_to_validation = validation_ && random_uniform(split_key_, static_cast<uint64_t>(document_)) < options_.validation;
  TokenFileWriter& writer = goes_to_validation ? *validation_ : training_;
  writer.add(ids, learned);
  if (!goes_to_validation) count(ids);
  if (!ends_document) return;
  writer.end_document();
  ++document_;
}

BuildState CorpusSink::save() {
  BuildState state;
  state.documents = document_;
  state.parts[kTraining] = training_.save();
  if (validation_) state.parts[kValidation] = validation_->save();
  return state;
}

void CorpusSink::count(const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) counts_.add(id);
}

int64_t CorpusSink::tokens() const { return training_.token_count() + (validation_ ? validation_->token_count() : 0); }

void CorpusSink::complete() {
  require_documents(training_, "training");
  if (validation_) require_documents(*validation_, "validation");
  training_.complete();
  if (validation_) validation_->complete();
}

void CorpusSink::withdraw_older() {
  training_.withdraw_older();
  if (validation_) validation_->withdraw_older();
}

void CorpusSink::finish() {
  if (validation_) validation_->finish();
  training_.finish();
}

void CorpusSink::describe(CorpusFacts& facts) const {
  facts.documents = training_.document_count();
  facts.tokens = training_.token_count();
  facts.learned = training_.learned_count();
  facts.validation_documents = validation_ ? validation_->document_count() : 0;
  facts.validation_tokens = validation_ ? validation_->token_count() : 0;
  facts.validation_learned = validation_ ? validation_->learned_count() : 0;
  facts.unigram_entropy = counts_.entropy();
  facts.largest_id = counts_.largest_id();
}

void CorpusSink::require_documents(const TokenFileWriter& writer, const char* part) const {
  if (writer.document_count() > 0) return;
  throw DataError(concat("the ", part, " part would be empty: the input has ", counted(document_, "document"), " with text, validation (",
                         options_.validation, ") is the share that is set aside"));
}

}  // namespace pimoe
