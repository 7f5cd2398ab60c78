#pragma once

#include "base/log.h"
#include "serve/api_keys.h"
#include "serve/completion_job.h"
#include "serve/completion_metrics.h"
#include "serve/completion_source.h"
#include "serve/completion_texts.h"
#include "serve/http_message.h"
#include "serve/rate_limit.h"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace pimoe {

/// What a model is served as.
struct CompletionFacts {
  std::string model;                          ///< its name in the API
  int64_t layers = 0;                         ///< with experts
  int64_t experts = 0;                        ///< of each
  int64_t choices = 0;                        ///< of them, for each token
  std::optional<double> requests_per_minute;  ///< of each key that has no rate of its own; without keys, of all clients together
  bool only_local_names = false;  ///< the Host header must name this machine: for servers on loopback without keys, which web pages of
                                  ///< others would reach under a name that leads there (DNS rebinding)
  bool log_prompts = false;
  OpenAiLimits limits;
};

/// The server's routes: /, /health, /metrics, /v1/models, /v1/completions, /v1/chat/completions. Decides by a request's head who may ask; logs one line for
/// each request.
class CompletionService : public HttpHandler {
 public:
  /// All must outlive it, and every exchange.
  CompletionService(CompletionFacts facts, const CompletionTexts& texts, const ApiKeys& keys, CompletionSource& source, Logger& log);

  /// What /metrics says of connections. Set before the server takes any.
  void set_counts(std::function<HttpServer::Counts()> counts) { counts_ = std::move(counts); }
  /// From now on completions are refused with 503, and /health says so.
  void close(const std::string& why);

  std::optional<HttpResponse> refuse_head(const HttpRequest& head) override;
  void answer(std::shared_ptr<HttpExchange> exchange) override;
  HttpResponse refusal(int status, const std::string& why) override;

  /// For alerts: what happened since this was called last. @param seconds  since then
  Scalars since_last(double seconds) { return metrics_.since_last(source_, seconds); }
  const std::string& model() const { return facts_.model; }

 private:
  std::optional<HttpResponse> refusal_of(const HttpRequest& head);
  void require_served(const std::string& model) const;
  HttpResponse models(const HttpRequest& request) const;
  HttpResponse health() const;
  void complete(const std::shared_ptr<HttpExchange>& exchange, bool is_chat);
  void log_request(const HttpRequest& request, int status, const std::string& facts);
  std::string who(const HttpRequest& request) const;

  CompletionFacts facts_;
  const CompletionTexts& texts_;
  const ApiKeys& keys_;
  CompletionSource& source_;
  Logger& log_;
  RateLimit rate_;
  const HttpResponse page_;
  CompletionMetrics metrics_;
  std::function<HttpServer::Counts()> counts_;
  int64_t started_;
  std::atomic<bool> is_closed_ = false;
  std::string why_closed_;
};

}  // namespace pimoe
