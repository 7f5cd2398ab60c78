#pragma once

#include "base/log.h"
#include "serve/completion_metrics.h"
#include "serve/completion_source.h"
#include "serve/completion_texts.h"
#include "serve/http_message.h"
#include "serve/openai_answer.h"
#include "serve/openai_request.h"

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// One request of the API, from when it was read to its answer's end: as many texts as it has prompts times n, in one answer or one stream.
///
/// Everything happens on its connection's thread; the source's threads only post there. A client that leaves has all of its texts cancelled.
class CompletionJob : public std::enable_shared_from_this<CompletionJob> {
 public:
  /// What outlives jobs.
  struct Services {
    CompletionSource& source;
    const CompletionTexts& texts;
    CompletionMetrics& metrics;
    std::string model;
    int64_t traced_experts = 0;  ///< of a token, over its layers
    size_t client = 0;           ///< who asks, as the source shares itself out
    /// Told at the end of each: its status (0: the client left), and what is to be said of it.
    std::function<void(int status, const std::string& facts)> ended;
  };

  CompletionJob(Services services, OpenAiRequest request, std::shared_ptr<HttpExchange> exchange);

  /// Hands the texts to the source. Answers itself where they are refused: 400, 429, 503.
  void start();

 private:
  struct Choice {
    OpenAiChoice said;  ///< not yet sent; of a whole answer: all
    uint64_t id = 0;    ///< of the source
    int64_t generated = 0;
    bool is_begun = false;  ///< a chunk of it was sent
    bool has_ended = false;
    std::chrono::steady_clock::time_point newest;
  };

  GenerationRequest generation_of(const std::vector<int64_t>& prompt, int64_t copy) const;
  /// @throws OpenAiError where the answer would have more numbers than one may
  void require_few_numbers(const std::vector<GenerationRequest>& generations) const;
  void hear(size_t index, const GenerationUpdate& update);
  void hear_token(Choice& choice, const GeneratedToken& token);
  void send(Choice& choice);
  void end_choice(Choice& choice, const GenerationUpdate& update);
  void answer();
  void fail(int status, const std::string& message);
  void cancel_all();
  void refuse(const HttpResponse& response);
  void say_end(int status);
  double seconds() const;
  bool keeps_tokens() const { return facts_.has_logprobs || facts_.has_experts; }

  Services services_;
  OpenAiRequest request_;
  std::shared_ptr<HttpExchange> exchange_;
  OpenAiAnswerFacts facts_;
  bool has_heard_step_ = false;  ///< facts_.step is of the weights that answer
  uint64_t seed_ = 0;
  std::vector<Choice> choices_;
  OpenAiUsage usage_;
  size_t left_ = 0;  ///< choices that have not ended
  bool is_over_ = false;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  double first_token_seconds_ = -1.0;
};

}  // namespace pimoe
