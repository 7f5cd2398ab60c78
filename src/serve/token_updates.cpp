#include "serve/token_updates.h"

#include "base/random.h"
#include "base/text.h"
#include "model/sampling.h"
#include "serve/token_scores.h"

#include <ATen/ops/max.h>

#include <cmath>
#include <tuple>

namespace pimoe {
namespace {

const std::string& bytes_of(int64_t token, const TokenTexts& texts) {
  static const std::string kNone;
  return token < static_cast<int64_t>(texts.texts.size()) ? texts.texts[static_cast<size_t>(token)] : kNone;
}

std::vector<std::vector<int32_t>> experts_at(const at::Tensor& experts, int64_t row) {
  std::vector<std::vector<int32_t>> of_layers;
  const at::Tensor of_row = experts.select(0, row).contiguous();
  const int64_t choices = of_row.size(1);
  const int32_t* first = of_row.const_data_ptr<int32_t>();
  for (int64_t layer = 0; layer < of_row.size(0); ++layer) of_layers.emplace_back(first + layer * choices, first + (layer + 1) * choices);
  return of_layers;
}

GeneratedToken scored(const ServedText& text, int64_t token, const RankedScores& scores, int64_t row) {
  GeneratedToken result;
  result.token = token;
  if (text.request.top_logprobs) {
    const TokenScores of_row(scores.logits.select(0, row));
    result.logprob = of_row.logprob(token);
    result.top = of_row.top(*text.request.top_logprobs);
  }
  if (text.request.trace_experts && scores.experts.defined()) result.experts = experts_at(scores.experts, row);
  return result;
}

int64_t drawn(const ServedText& text, const RankedScores& scores, int64_t row) {
  const SamplingOptions& sampling = text.request.sampling;
  if (sampling.is_plainly_greedy()) return scores.greedy.const_data_ptr<int64_t>()[row];
  // As `generate` draws for its first prompt.
  const double draw = random_uniform(named_key(sampling.seed, "sampling"), static_cast<uint64_t>(text.added()));
  return sample_token(penalised(scores.logits.select(0, row), text.tokens, sampling.repetition_penalty), sampling, draw);
}

void put_prompt_token(ServedText& text, int64_t position, GeneratedToken token, GenerationUpdate& update, const TokenTexts& texts) {
  token.of_prompt = true;
  token.text = text.prompt_stream.add(bytes_of(token.token, texts));
  if (position + 1 == text.prompt_tokens) token.text += text.prompt_stream.rest();
  update.tokens.push_back(std::move(token));
}

void put_first_prompt_token(ServedText& text, GenerationUpdate& update, const TokenTexts& texts) {
  if (text.has_own_beginning) return;
  GeneratedToken first;
  first.token = text.tokens[0];
  put_prompt_token(text, 0, std::move(first), update, texts);
}

void put_new_token(ServedText& text, const RankedScores& scores, int64_t row, GenerationUpdate& update, const TokenTexts& texts) {
  const int64_t token = drawn(text, scores, row);
  if (token == text.request.sampling.stop_token) {
    update.ending = GenerationEnding::kEndOfDocument;
    update.tail = text.stream.rest();
    return;
  }
  GeneratedToken result = scored(text, token, scores, row);
  text.tokens.push_back(token);
  result.text = text.stream.add(bytes_of(token, texts));
  if (text.stream.stopped()) {
    update.ending = GenerationEnding::kStop;
  } else if (text.added() >= text.request.max_tokens) {
    update.ending = GenerationEnding::kLength;
    result.text += text.stream.rest();
  }
  update.tokens.push_back(std::move(result));
}

}  // namespace

RankedScores::RankedScores(StepScores scores) : logits(std::move(scores.logits)), experts(std::move(scores.experts)) {
  if (logits.size(0) == 0) return;
  std::tie(largest, greedy) = at::max(logits, 1);
}

GenerationUpdate update_of(ServedText& text, const TextPart& part, const RankedScores& scores, int64_t row, const TokenTexts& texts) {
  GenerationUpdate update;
  const int64_t before = text.kept - part.count;
  if (text.scores_prompt() && before == 0 && text.added() == 0) put_first_prompt_token(text, update, texts);
  for (int64_t at = 0; at < part.scored; ++at, ++row) {
    const double largest = scores.largest.scalar_type() == at::kFloat ? static_cast<double>(scores.largest.const_data_ptr<float>()[row])
                                                                      : scores.largest.const_data_ptr<double>()[row];
    const int64_t position = text.kept - part.scored + at;
    if (!std::isfinite(largest)) {
      update.ending = GenerationEnding::kFailed;
      update.error = concat("the model's scores behind token ", position, " are not finite");
      return update;
    }
    if (position + 1 < text.prompt_tokens) {
      put_prompt_token(text, position + 1, scored(text, text.tokens[static_cast<size_t>(position + 1)], scores, row), update, texts);
    } else {
      put_new_token(text, scores, row, update, texts);
    }
  }
  if (text.request.max_tokens == 0 && text.kept == text.wanted()) update.ending = GenerationEnding::kLength;
  return update;
}

GenerationUpdate update_without_step(ServedText& text, const TokenTexts& texts) {
  GenerationUpdate update;
  if (text.scores_prompt()) put_first_prompt_token(text, update, texts);
  update.ending = GenerationEnding::kLength;
  return update;
}

}  // namespace pimoe
