#include "serve/completion_service.h"

#include "base/errors.h"
#include "base/host.h"
#include "base/text.h"
#include "base/utf8.h"
#include "serve/openai_error.h"
#include "serve/serve_page.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace pimoe {
namespace {

constexpr std::string_view kModels = "/v1/models";

/// A path of the server. What a client sends never becomes a label of metrics: `name` does.
struct Route {
  const char* name;
  const char* method;  ///< GET also answers HEAD
  bool is_open;        ///< without a key
};

std::optional<Route> route_of(const std::string& path) {
  if (path == "/") return Route{"/", "GET", true};
  if (path == "/health") return Route{"/health", "GET", true};
  if (path == "/metrics") return Route{"/metrics", "GET", false};
  if (path == kModels) return Route{"/v1/models", "GET", false};
  if (path.starts_with(kModels) && path[kModels.size()] == '/') return Route{"/v1/models", "GET", false};
  if (path == "/v1/completions") return Route{"/v1/completions", "POST", false};
  if (path == "/v1/chat/completions") return Route{"/v1/chat/completions", "POST", false};
  return std::nullopt;
}

bool is_json(const std::string& content_type) {
  std::string type = content_type.substr(0, content_type.find(';'));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  std::transform(type.begin(), type.end(), type.begin(), [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return type == "application/json";
}

/// @returns whether a Host header names this machine
bool is_local_name(std::string host) {
  if (host.find('@') != std::string::npos) return false;  // before it stands a user's name, however much it looks like a host
  if (host.starts_with('[')) {
    host = host.substr(1, host.find(']') - 1);
  } else {
    host = host.substr(0, host.find(':'));
  }
  return is_loopback(host);
}

HttpResponse refused(const std::string& message, const char* code, int status) { return OpenAiError(message, "", code, status).response(); }

HttpResponse retry_after(HttpResponse response, double seconds) {
  response.headers.emplace_back("Retry-After", concat(std::max<int64_t>(1, std::llround(std::ceil(seconds)))));
  return response;
}

/// Of each client that has a number: the keys' holders, and one for everyone without keys.
std::vector<std::optional<double>> rates_of(const ApiKeys& keys, std::optional<double> otherwise) {
  std::vector<std::optional<double>> rates;
  for (const ApiKeys::Holder& holder : keys.holders()) rates.push_back(holder.requests_per_minute ? holder.requests_per_minute : otherwise);
  if (rates.empty()) rates.push_back(otherwise);
  return rates;
}

constexpr size_t kShownBytes = 2000;  // of a body in the log

}  // namespace

CompletionService::CompletionService(CompletionFacts facts, const CompletionTexts& texts, const ApiKeys& keys, CompletionSource& source,
                                     Logger& log)
    : facts_(std::move(facts)),
      texts_(texts),
      keys_(keys),
      source_(source),
      log_(log),
      rate_(rates_of(keys, facts_.requests_per_minute)),
      page_(serve_page()),
      started_(static_cast<int64_t>(wall_clock_seconds())) {}

void CompletionService::close(const std::string& why) {
  if (is_closed_) return;
  why_closed_ = why;
  is_closed_ = true;
}

std::optional<HttpResponse> CompletionService::refuse_head(const HttpRequest& head) {
  std::optional<HttpResponse> refusal = refusal_of(head);
  if (refusal) log_request(head, refusal->status, "");
  return refusal;
}

std::optional<HttpResponse> CompletionService::refusal_of(const HttpRequest& head) {
  if (facts_.only_local_names && !is_local_name(head.host)) {
    return refused("the Host header does not name this machine, which alone may ask", "wrong_host", 403);
  }
  const std::optional<Route> route = route_of(head.path);
  if (!route)
    return refused("there is no such path: /v1/models, /v1/completions, /v1/chat/completions, /health, /metrics and / are there",
                   "no_such_path", 404);
  const bool is_get = head.method == "GET" || head.method == "HEAD";
  if (route->method == std::string("GET") ? !is_get : head.method != "POST") {
    HttpResponse response = refused(concat(route->name, " takes ", route->method), "wrong_method", 405);
    response.headers.emplace_back("Allow", route->method == std::string("GET") ? "GET, HEAD" : "POST");
    return response;
  }
  const std::optional<size_t> holder = keys_.empty() ? std::optional<size_t>(0) : keys_.find(head.authorization);
  if (!route->is_open && !holder) {
    return refused(head.authorization.empty() ? "an API key is needed: Authorization: Bearer KEY" : "the API key is not known here",
                   "invalid_api_key", 401);
  }
  if (is_get) return std::nullopt;
  if (!is_json(head.content_type))
    return refused("the body must be JSON, and say so: Content-Type: application/json", "wrong_content_type", 415);
  if (is_closed_) return retry_after(refused(why_closed_, "leaving", 503), 5);
  if (const auto seconds = rate_.take(*holder)) {
    return retry_after(refused(concat("more requests than ", keys_.empty() ? "all clients" : "this key", " may make a minute: again in ",
                                      human_duration(*seconds)),
                               "rate_limit_exceeded", 429),
                       *seconds);
  }
  return std::nullopt;
}

HttpResponse CompletionService::refusal(int status, const std::string& why) {
  HttpResponse response = refused(why,
                                  status == 413   ? "body_too_large"
                                  : status == 431 ? "head_too_large"
                                  : status == 503 ? "overloaded"
                                                  : "bad_request",
                                  status);
  metrics_.count_request("none", status);
  return status == 503 ? retry_after(std::move(response), 1) : response;
}

std::string CompletionService::who(const HttpRequest& request) const {
  if (keys_.empty()) return "";
  const auto holder = keys_.find(request.authorization);
  return holder ? concat(" key ", keys_.holders()[*holder].name) : " no key";
}

void CompletionService::log_request(const HttpRequest& request, int status, const std::string& facts) {
  const auto route = route_of(request.path);
  metrics_.count_request(route ? route->name : "none", status);
  const std::string line =
      concat("request ", request.request_id, " from ", request.peer, who(request), ": ", printable(request.method.substr(0, 16)), " ",
             route ? route->name : "(no such path)", " ", status == 0 ? "client left" : concat(status), facts.empty() ? "" : ", ", facts);
  if (status == 200 && facts.empty()) return log_.debug(line);  // what looks at the server all the time
  log_.info(line);
}

HttpResponse CompletionService::health() const {
  HttpResponse response;
  response.status = is_closed_ ? 503 : 200;
  response.body = nlohmann::ordered_json{{"status", is_closed_ ? why_closed_ : "ok"}}.dump() + "\n";
  return response;
}

void CompletionService::require_served(const std::string& model) const {
  if (model.empty() || model == facts_.model) return;
  throw OpenAiError(
      concat("the model '", printable(model.substr(0, character_boundary(model, 100))), "' is not served here: '", facts_.model, "' is"),
      "model", "model_not_found", 404);
}

HttpResponse CompletionService::models(const HttpRequest& request) const {
  const nlohmann::ordered_json model = {{"id", facts_.model},
                                        {"object", "model"},
                                        {"created", started_},
                                        {"owned_by", "pimoe"},
                                        {"max_model_len", texts_.sequence_length()},
                                        {"pimoe",
                                         {{"step", source_.step()},
                                          {"chat", texts_.can_chat()},
                                          {"moe_layers", facts_.layers},
                                          {"experts", facts_.experts},
                                          {"choices", facts_.choices}}}};
  HttpResponse response;
  if (request.path == kModels) {
    response.body = nlohmann::ordered_json{{"object", "list"}, {"data", nlohmann::ordered_json::array({model})}}.dump() + "\n";
    return response;
  }
  require_served(request.path.substr(kModels.size() + 1));
  response.body = model.dump() + "\n";
  return response;
}

void CompletionService::answer(std::shared_ptr<HttpExchange> exchange) {
  const HttpRequest& request = exchange->request();
  HttpResponse response;
  try {
    if (request.path == "/v1/completions") return complete(exchange, /*is_chat=*/false);
    if (request.path == "/v1/chat/completions") return complete(exchange, /*is_chat=*/true);
    if (request.path == "/") {
      response = page_;
    } else if (request.path == "/health") {
      response = health();
    } else if (request.path == "/metrics") {
      response.content_type = "text/plain; version=0.0.4; charset=utf-8";
      response.body = metrics_.text(counts_ ? counts_() : HttpServer::Counts{}, source_);
    } else {
      response = models(request);
    }
  } catch (const OpenAiError& error) {
    response = error.response();
  }
  log_request(request, response.status, "");
  exchange->respond(std::move(response));
}

void CompletionService::complete(const std::shared_ptr<HttpExchange>& exchange, bool is_chat) {
  const HttpRequest& request = exchange->request();
  if (facts_.log_prompts) {
    const std::string shown = request.body.substr(0, character_boundary(request.body, kShownBytes));
    log_.info(concat("request ", request.request_id, " asks: ", printable(shown), shown.size() < request.body.size() ? " ..." : ""));
  }
  OpenAiRequest read = is_chat ? read_chat_request(request.body, facts_.limits) : read_completion_request(request.body, facts_.limits);
  require_served(read.model);
  // The head alone: jobs end after their answers, and need not keep bodies.
  HttpRequest head = request;
  head.body.clear();
  const CompletionJob::Services services{source_,
                                         texts_,
                                         metrics_,
                                         facts_.model,
                                         facts_.layers * facts_.choices,
                                         keys_.find(request.authorization).value_or(0),
                                         [this, head](int status, const std::string& facts) { log_request(head, status, facts); }};
  std::make_shared<CompletionJob>(services, std::move(read), exchange)->start();
}

}  // namespace pimoe
