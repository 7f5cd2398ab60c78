#include "serve/completion_job.h"

#include "base/errors.h"
#include "base/host.h"
#include "base/text.h"
#include "serve/openai_error.h"

#include <algorithm>
#include <random>
#include <utility>

namespace pimoe {
namespace {

constexpr int kClientLeft = 0;
constexpr int64_t kMostNumbers = 1'000'000;  // of an answer: some 50 MB, and a second of one of the server's threads
constexpr const char* kEventStream = "text/event-stream; charset=utf-8";

HttpResponse busy(const std::string& why, int status, const char* code) {
  HttpResponse response = OpenAiError(why, "", code, status).response();
  response.headers.emplace_back("Retry-After", "1");
  return response;
}

}  // namespace

CompletionJob::CompletionJob(Services services, OpenAiRequest request, std::shared_ptr<HttpExchange> exchange)
    : services_(std::move(services)), request_(std::move(request)), exchange_(std::move(exchange)) {
  facts_.is_chat = request_.is_chat;
  facts_.id = exchange_->request().request_id;
  facts_.model = services_.model;
  facts_.created = static_cast<int64_t>(wall_clock_seconds());
  facts_.step = services_.source.step();
  facts_.has_logprobs = request_.top_logprobs.has_value();
  facts_.has_experts = request_.trace_experts;
  seed_ = request_.seed ? *request_.seed : std::random_device{}();
}

double CompletionJob::seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count(); }

GenerationRequest CompletionJob::generation_of(const std::vector<int64_t>& prompt, int64_t copy) const {
  const auto taken = std::max<int64_t>(1, static_cast<int64_t>(prompt.size()));
  const int64_t room = services_.texts.sequence_length() - taken;
  const int64_t most = request_.max_tokens.value_or(std::max<int64_t>(1, std::min(room, services_.source.most_tokens() - taken)));
  if (most > room) {
    throw OpenAiError(concat("the prompt's ", counted(static_cast<int64_t>(prompt.size()), "token"), " and ", most,
                             " new ones are more than the ", services_.texts.sequence_length(), " that the model sees"),
                      request_.is_chat ? "messages" : "prompt", "context_length_exceeded");
  }
  GenerationRequest generation;
  generation.prompt = prompt;
  generation.max_tokens = most;
  generation.sampling.tokens = most;
  generation.sampling.temperature = request_.temperature;
  generation.sampling.top_k = request_.top_k;
  generation.sampling.top_p = request_.top_p;
  generation.sampling.repetition_penalty = request_.repetition_penalty;
  generation.sampling.seed = seed_ + static_cast<uint64_t>(copy);
  generation.sampling.stop_token = services_.texts.end(request_.is_chat);
  generation.stop = request_.stops;
  generation.top_logprobs = request_.top_logprobs;
  generation.score_prompt = request_.echo && (request_.top_logprobs || request_.trace_experts);
  generation.trace_experts = request_.trace_experts;
  generation.client = services_.client;
  return generation;
}

void CompletionJob::require_few_numbers(const std::vector<GenerationRequest>& generations) const {
  const int64_t of_token =
      (request_.top_logprobs ? 1 + *request_.top_logprobs : 0) + (request_.trace_experts ? services_.traced_experts : 0);
  int64_t numbers = 0;
  for (const GenerationRequest& each : generations) {
    numbers += of_token * (each.max_tokens + (each.score_prompt ? static_cast<int64_t>(each.prompt.size()) : 0));
  }
  if (numbers <= kMostNumbers) return;
  throw OpenAiError(concat("the answer would have ", grouped(numbers), " log-probabilities and experts, and may have ",
                           grouped(kMostNumbers), ": ask for fewer choices, tokens or logprobs at a time"),
                    "logprobs", "answer_too_large");
}

void CompletionJob::start() {
  exchange_->on_gone([self = weak_from_this()] {
    const auto job = self.lock();
    if (!job || job->is_over_) return;
    job->is_over_ = true;
    job->cancel_all();
    job->say_end(kClientLeft);
  });
  try {
    const size_t prompts = request_.is_chat ? 1 : request_.prompts.size();
    std::vector<GenerationRequest> generations;
    for (size_t index = 0; index < prompts; ++index) {
      const std::vector<int64_t> prompt =
          request_.is_chat ? services_.texts.encode(request_.messages) : services_.texts.encode(request_.prompts[index]);
      usage_.prompt_tokens += static_cast<int64_t>(prompt.size());
      for (int64_t copy = 0; copy < request_.n; ++copy) {
        generations.push_back(generation_of(prompt, copy));
        Choice& choice = choices_.emplace_back();
        choice.said.index = static_cast<int64_t>(choices_.size()) - 1;
        if (request_.echo) choice.said.text = services_.texts.text_of(request_.prompts[index]);
        if (!request_.echo && !request_.is_chat) choice.said.text_offset = characters_of(services_.texts.text_of(request_.prompts[index]));
      }
    }
    require_few_numbers(generations);
    left_ = choices_.size();
    for (size_t index = 0; index < generations.size(); ++index) {
      choices_[index].id =
          services_.source.submit(std::move(generations[index]), [self = shared_from_this(), index](const GenerationUpdate& update) {
            self->exchange_->post([self, index, update] { self->hear(index, update); });
          });
    }
  } catch (const OpenAiError& error) {
    return refuse(error.response());
  } catch (const ShapeError& error) {
    return refuse(OpenAiError(error.what(), "prompt", "context_length_exceeded").response());
  } catch (const CompletionSource::Full& error) {
    return refuse(busy(error.what(), 429, "queue_full"));
  } catch (const CompletionSource::Closed& error) {
    return refuse(busy(error.what(), 503, "closed"));
  } catch (...) {  // the server answers 500 and says why; what has begun is for nobody
    is_over_ = true;
    cancel_all();
    throw;
  }
  if (!request_.stream) return;
  HttpResponse head;
  head.content_type = kEventStream;
  exchange_->begin_stream(head);
}

void CompletionJob::refuse(const HttpResponse& response) {
  is_over_ = true;
  cancel_all();
  exchange_->respond(response);
  say_end(response.status);
}

void CompletionJob::cancel_all() {
  for (const Choice& choice : choices_) {
    if (choice.id != 0 && !choice.has_ended) services_.source.cancel(choice.id);
  }
}

void CompletionJob::hear(size_t index, const GenerationUpdate& update) {
  Choice& choice = choices_.at(index);
  if (is_over_ || choice.has_ended) return;
  if (update.step && !std::exchange(has_heard_step_, true)) facts_.step = *update.step;  // it may have waited while another took over
  for (const GeneratedToken& token : update.tokens) hear_token(choice, token);
  if (update.ending) end_choice(choice, update);
  if (is_over_) return;
  if (request_.stream) send(choice);
  if (left_ == 0) answer();
}

void CompletionJob::hear_token(Choice& choice, const GeneratedToken& token) {
  if (keeps_tokens()) choice.said.tokens.push_back(token);
  if (token.of_prompt) return;
  choice.said.text += token.text;
  ++usage_.completion_tokens;
  const auto now = std::chrono::steady_clock::now();
  if (choice.generated++ == 0) {
    const double first = seconds();
    services_.metrics.saw_first_token(first);
    if (first_token_seconds_ < 0) first_token_seconds_ = first;
  } else {
    services_.metrics.saw_next_token(std::chrono::duration<double>(now - choice.newest).count());
  }
  choice.newest = now;
}

void CompletionJob::end_choice(Choice& choice, const GenerationUpdate& update) {
  choice.has_ended = true;
  --left_;
  if (*update.ending == GenerationEnding::kFailed) return fail(500, concat("the model failed: ", update.error));
  if (*update.ending == GenerationEnding::kCancelled) return fail(503, "the server is leaving");
  choice.said.text += update.tail;
  choice.said.ending = update.ending;
}

void CompletionJob::send(Choice& choice) {
  const bool is_first = !std::exchange(choice.is_begun, true);
  if (choice.said.text.empty() && choice.said.tokens.empty() && !choice.said.ending && !is_first) return;
  exchange_->send(stream_chunk(facts_, choice.said, is_first, request_.include_usage, services_.texts));
  for (const GeneratedToken& token : choice.said.tokens) choice.said.text_offset += characters_of(services_.texts.bytes_of(token.token));
  choice.said.text.clear();
  choice.said.tokens.clear();
}

void CompletionJob::answer() {
  is_over_ = true;
  if (request_.stream) {
    if (request_.include_usage) exchange_->send(stream_usage(facts_, usage_));
    exchange_->send(kStreamEnd);
    exchange_->finish();
  } else {
    std::vector<OpenAiChoice> choices;
    for (Choice& choice : choices_) choices.push_back(std::move(choice.said));
    HttpResponse response;
    response.body = whole_answer(facts_, choices, usage_, services_.texts);
    exchange_->respond(std::move(response));
  }
  say_end(200);
}

void CompletionJob::fail(int status, const std::string& message) {
  is_over_ = true;
  cancel_all();
  const OpenAiError error(message, "", status == 503 ? "leaving" : "failed", status);
  if (request_.stream) {
    // The status has gone already: clients of the API take an event with an error in it for one.
    std::string body = error.body();
    body.pop_back();
    exchange_->send(stream_event(body));
    exchange_->finish();
  } else {
    exchange_->respond(error.response());
  }
  say_end(status);
}

void CompletionJob::say_end(int status) {
  const double whole = seconds();
  services_.metrics.count_tokens(usage_.prompt_tokens, usage_.completion_tokens);
  if (status == 200) services_.metrics.saw_end(whole);
  std::string facts = concat(usage_.prompt_tokens, " prompt + ", usage_.completion_tokens, " new tokens");
  if (choices_.size() > 1) facts += concat(" of ", choices_.size(), " texts");
  if (first_token_seconds_ >= 0) facts += concat(", first after ", time_text(first_token_seconds_));
  services_.ended(status, concat(facts, ", ", time_text(whole)));
}

}  // namespace pimoe
