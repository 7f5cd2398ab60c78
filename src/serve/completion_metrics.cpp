#include "serve/completion_metrics.h"

#include "base/number_text.h"
#include "base/text.h"

#include <algorithm>

namespace pimoe {
namespace {

std::string header(const std::string& name, const std::string& help, const char* type) {
  return concat("# HELP pimoe_serve_", name, " ", help, "\n# TYPE pimoe_serve_", name, " ", type, "\n");
}

std::string single(const std::string& name, const std::string& help, double value) {
  return concat(header(name, help, name.ends_with("_total") ? "counter" : "gauge"), "pimoe_serve_", name, " ", shortest(value), "\n");
}

}  // namespace

void CompletionMetrics::Histogram::add(double value) {
  const auto bucket = std::lower_bound(kBounds.begin(), kBounds.end(), value);
  ++counts[static_cast<size_t>(bucket - kBounds.begin())];
  sum += value;
}

void CompletionMetrics::Histogram::write(std::string& text, const char* name, const char* help) const {
  text += header(name, help, "histogram");
  uint64_t so_far = 0;
  for (size_t index = 0; index < counts.size(); ++index) {
    so_far += counts[index];
    const std::string bound = index < kBounds.size() ? shortest(kBounds[index]) : "+Inf";
    text += concat("pimoe_serve_", name, "_bucket{le=\"", bound, "\"} ", so_far, "\n");
  }
  text += concat("pimoe_serve_", name, "_sum ", shortest(sum), "\npimoe_serve_", name, "_count ", so_far, "\n");
}

void CompletionMetrics::count_request(const std::string& route, int status) {
  const std::lock_guard lock(mutex_);
  ++requests_[{route, status}];
}

void CompletionMetrics::count_tokens(int64_t prompt, int64_t generated) {
  const std::lock_guard lock(mutex_);
  prompt_tokens_ += static_cast<uint64_t>(prompt);
  generated_tokens_ += static_cast<uint64_t>(generated);
}

void CompletionMetrics::saw_first_token(double seconds) {
  const std::lock_guard lock(mutex_);
  first_.add(seconds);
}

void CompletionMetrics::saw_next_token(double seconds) {
  const std::lock_guard lock(mutex_);
  next_.add(seconds);
}

void CompletionMetrics::saw_end(double seconds) {
  const std::lock_guard lock(mutex_);
  whole_.add(seconds);
}

std::string CompletionMetrics::text(const HttpServer::Counts& http, const CompletionSource& source) const {
  std::string text;
  {
    const std::lock_guard lock(mutex_);
    text += header("requests_total", "Answered requests; status 0: the client left before the answer's end", "counter");
    for (const auto& [key, count] : requests_) {
      text += concat("pimoe_serve_requests_total{route=\"", key.first, "\",status=\"", key.second, "\"} ", count, "\n");
    }
    text += single("prompt_tokens_total", "Tokens of the prompts of completions that have ended", static_cast<double>(prompt_tokens_));
    text += single("generated_tokens_total", "Tokens of the completions that have ended", static_cast<double>(generated_tokens_));
    first_.write(text, "first_token_seconds", "From a request to its first new token");
    next_.write(text, "next_token_seconds", "Between the new tokens of a choice");
    whole_.write(text, "completion_seconds", "From a request to its answer's end");
  }
  text += single("connections", "Open connections", static_cast<double>(http.connections));
  text += single("connections_idle", "Open connections that wait for a request", static_cast<double>(http.idle));
  text += single("connections_total", "Connections since the start", static_cast<double>(http.accepted));
  text += single("refused_total", "Requests that broke a limit of the server, or were no HTTP", static_cast<double>(http.refused));
  text += single("clients_left_total", "Clients that left, or stopped reading, before their answer's end", static_cast<double>(http.left));
  for (const CompletionSource::Number& number : source.numbers()) text += single(number.name, number.help, number.value);
  const std::vector<double> shares = source.expert_shares();
  if (!shares.empty()) {
    text += header("expert_share", "Share of all slots that an expert got, over MoE layers", "gauge");
    for (size_t expert = 0; expert < shares.size(); ++expert)
      text += concat("pimoe_serve_expert_share{expert=\"", expert, "\"} ", shortest(shares[expert]), "\n");
  }
  return text;
}

}  // namespace pimoe
