#include "serve/completion_metrics.h"

#include "base/number_text.h"
#include "base/text.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

namespace pimoe {
namespace {

std::string header(const std::string& name, const std::string& help, const char* type) {
  return concat("# HELP pimoe_serve_", name, " ", help, "\n# TYPE pimoe_serve_", name, " ", type, "\n");
}

std::string single(const std::string& name, const std::string& help, double value) {
  return concat(header(name, help, name.ends_with("_total") ? "counter" : "gauge"), "pimoe_serve_", name, " ", shortest(value), "\n");
}

/// @returns the share of experts that got a slot since `before`; nothing where none did
std::optional<double> used_experts(const std::vector<int64_t>& slots, const std::vector<int64_t>& before) {
  bool goes_on = before.size() == slots.size();  // else another checkpoint's have begun to count
  for (size_t expert = 0; goes_on && expert < slots.size(); ++expert) goes_on = slots[expert] >= before[expert];
  int64_t used = 0;
  for (size_t expert = 0; expert < slots.size(); ++expert) used += slots[expert] > (goes_on ? before[expert] : 0) ? 1 : 0;
  if (used == 0) return std::nullopt;
  return static_cast<double>(used) / static_cast<double>(slots.size());
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

uint64_t CompletionMetrics::Histogram::count() const { return std::accumulate(counts.begin(), counts.end(), uint64_t{0}); }

CompletionMetrics::Histogram CompletionMetrics::Histogram::minus(const Histogram& before) const {
  Histogram since = *this;
  for (size_t index = 0; index < counts.size(); ++index) since.counts[index] -= before.counts[index];
  since.sum -= before.sum;
  return since;
}

double CompletionMetrics::Histogram::quantile(double share) const {
  const double wanted = share * static_cast<double>(count());
  uint64_t so_far = 0;
  for (size_t index = 0; index < kBounds.size(); ++index) {
    so_far += counts[index];
    if (static_cast<double>(so_far) >= wanted) return kBounds[index];
  }
  return std::numeric_limits<double>::infinity();
}

Scalars CompletionMetrics::since_last(const CompletionSource& source, double seconds) {
  const CompletionSource::State state = source.state();
  Look now;
  now.generated = state.generated_tokens;
  now.expert_slots = state.expert_slots;
  Scalars values = {{"texts_running", static_cast<double>(state.running)},
                    {"texts_waiting", static_cast<double>(state.waiting)},
                    {"pages_free", static_cast<double>(state.free_pages)},
                    {"step_seconds", state.step_seconds}};
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, count] : requests_) {
      now.requests += count;
      if (key.second >= 500) now.errors += count;
    }
    now.first = first_;
    now.next = next_;
  }
  const Look before = std::exchange(last_look_, now);
  const auto add_times = [&values](const std::string& name, const Histogram& since) {
    if (since.count() == 0) return;
    values.emplace_back(name, since.sum / static_cast<double>(since.count()));
    values.emplace_back(name + "_p99", since.quantile(0.99));
  };
  add_times("first_token_seconds", now.first.minus(before.first));
  add_times("next_token_seconds", now.next.minus(before.next));
  const auto requests = static_cast<double>(now.requests - before.requests);
  values.emplace_back("requests_per_second", requests / seconds);
  values.emplace_back("tokens_per_second", static_cast<double>(now.generated - before.generated) / seconds);
  if (requests > 0) values.emplace_back("error_share", static_cast<double>(now.errors - before.errors) / requests);
  if (const auto used = used_experts(now.expert_slots, before.expert_slots)) values.emplace_back("moe/utilization", *used);
  values.emplace_back("memory_bytes", static_cast<double>(state.memory_bytes));
  return values;
}

std::vector<std::string> service_metric_names() {
  return {"texts_running",       "texts_waiting",           "pages_free",         "step_seconds",
          "first_token_seconds", "first_token_seconds_p99", "next_token_seconds", "next_token_seconds_p99",
          "requests_per_second", "tokens_per_second",       "error_share",        "moe/utilization",
          "memory_bytes"};
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
