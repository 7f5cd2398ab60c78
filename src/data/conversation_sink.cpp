#include "data/conversation_sink.h"

#include "base/errors.h"
#include "base/random.h"
#include "base/text.h"
#include "data/token_file_format.h"

namespace pimoe {

ConversationSink::ConversationSink(const CorpusOptions& options, int64_t vocabulary)
    : options_(options), split_key_(named_key(options.seed, "data.validation")), training_(options.output, vocabulary, /*with_mask=*/true) {
  if (options.validation > 0) {
    validation_.emplace(index_format::part_name(options.output, "-validation"), vocabulary, /*with_mask=*/true);
  }
}

void ConversationSink::add(const std::vector<int32_t>& ids, const std::vector<uint8_t>& learned) {
  const bool goes_to_validation = validation_ && random_uniform(split_key_, static_cast<uint64_t>(document_)) < options_.validation;
  TokenFileWriter& writer = goes_to_validation ? *validation_ : training_;
  writer.add(ids, learned);
  if (!goes_to_validation) {
    for (const int32_t id : ids) counts_.add(id);
  }
  writer.end_document();
  ++document_;
}

int64_t ConversationSink::tokens() const { return training_.token_count() + (validation_ ? validation_->token_count() : 0); }

void ConversationSink::complete() {
  require_documents(training_, "training");
  if (validation_) require_documents(*validation_, "validation");
  training_.complete();
  if (validation_) validation_->complete();
}

void ConversationSink::withdraw_older() {
  training_.withdraw_older();
  if (validation_) validation_->withdraw_older();
}

void ConversationSink::finish() {
  if (validation_) validation_->finish();
  training_.finish();
}

void ConversationSink::describe(CorpusFacts& facts) const {
  facts.documents = training_.document_count();
  facts.tokens = training_.token_count();
  facts.learned = training_.learned_count();
  facts.validation_documents = validation_ ? validation_->document_count() : 0;
  facts.validation_tokens = validation_ ? validation_->token_count() : 0;
  facts.validation_learned = validation_ ? validation_->learned_count() : 0;
  facts.unigram_entropy = counts_.entropy();
  facts.largest_id = counts_.largest_id();
}

void ConversationSink::require_documents(const TokenFileWriter& writer, const char* part) const {
  if (writer.document_count() > 0) return;
  throw DataError(concat("the ", part, " part would be empty: the input has ", counted(document_, "document"), " with text, validation (",
                         options_.validation, ") is the share that is set aside"));
}

}  // namespace pimoe
