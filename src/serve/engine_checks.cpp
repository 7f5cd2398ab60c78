#include "serve/engine_checks.h"

#include "base/text.h"
#include "model/generation.h"
#include "model/key_value_cache.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace pimoe {

SchedulerLimits scheduler_limits(const EngineLimits& limits, const Transformer& model, int ranks) {
  for (const auto& [name, value] : {std::pair{"max-batch", limits.max_batch},
                                    {"max-queue", limits.max_queue},
                                    {"prefill-chunk", limits.prefill_chunk},
                                    {"page-tokens", limits.page_tokens}}) {
    if (value < 1) throw ConfigError(concat(name, " (", value, ") must be at least 1"));
  }
  if (limits.memory_budget_bytes < 0) throw ConfigError(concat("memory-budget (", limits.memory_budget_bytes, ") must not be negative"));
  const int64_t of_text = KeyValueCache::pages_for(model.config().sequence_length, limits.page_tokens);
  int64_t pages = (limits.max_batch + ranks - 1) / ranks * of_text;
  if (limits.memory_budget_bytes > 0) {
    const int64_t of_page = KeyValueCache::bytes_of_page(model.config(), model.dtype(), limits.page_tokens);
    pages = std::min(pages, limits.memory_budget_bytes / of_page);
    if (pages < 1) {
      throw ConfigError(concat("memory-budget (", limits.memory_budget_bytes, " bytes) holds no page of ", limits.page_tokens,
                               " positions, which takes ", of_page));
    }
  }
  return {.ranks = ranks,
          .pages = pages,
          .page_tokens = limits.page_tokens,
          .max_batch = limits.max_batch,
          .prefill_chunk = limits.prefill_chunk,
          .prefix_cache = limits.prefix_cache,
          .has_several_clients = limits.has_several_clients};
}

void require_servable(const Transformer& model) {
  const MoeConfig& moe = model.config().moe;
  if (model.config().moe_layers() > 0 && routes_by_batch(moe)) {
    throw ConfigError(concat(
        "model.moe.router.kind (", moe.router_kind(),
        ") goes by the other tokens of a sequence, which later ones change: it cannot be served; `pimoe generate` continues such models"));
  }
}

/// A model may take another's place where all that was promised to requests holds, and pages stay what they are.
void require_alike(const Transformer& model, const Transformer& before) {
  const auto require = [](const char* name, int64_t value, int64_t served) {
    if (value != served) throw ConfigError(concat(name, " (", value, ") must be that of the model that is served (", served, ")"));
  };
  require("model.vocabulary", model.config().vocabulary, before.config().vocabulary);
  require("model.sequence_length", model.config().sequence_length, before.config().sequence_length);
  require("layers with experts", model.config().moe_layers(), before.config().moe_layers());
  if (model.config().moe_layers() > 0) {  // what is counted of experts, and what clients were told of them
    require("model.moe.experts", model.config().moe.experts, before.config().moe.experts);
    require("model.moe.choices", model.config().moe.choices, before.config().moe.choices);
  }
  require("bytes of a position's keys and values", KeyValueCache::bytes_of_page(model.config(), model.dtype(), 1),
          KeyValueCache::bytes_of_page(before.config(), before.dtype(), 1));
}

void require_request(const GenerationRequest& request, int64_t vocabulary, int64_t room, const SchedulerLimits& limits) {
  const auto require = [](bool holds, auto&&... parts) {
    if (!holds) throw ShapeError(concat(parts...));
  };
  for (const int64_t token : request.prompt) {
    require(token >= 0 && token < vocabulary, "prompt: token ", token, " must be in [0, ", vocabulary, ")");
  }
  const auto tokens = std::max<int64_t>(1, static_cast<int64_t>(request.prompt.size()));
  require(request.max_tokens >= 0, "max_tokens (", request.max_tokens, ") must not be negative");
  require(request.max_tokens <= room && tokens + request.max_tokens <= room, "a prompt of ", tokens, " tokens and max_tokens (",
          request.max_tokens, ") go beyond the ", room, " that the model sees (model.sequence_length)");
  const int64_t pages = KeyValueCache::pages_for(std::max<int64_t>(0, tokens + request.max_tokens - 1), limits.page_tokens);
  require(pages <= limits.pages, "a prompt of ", tokens, " tokens and max_tokens (", request.max_tokens, ") need ", pages,
          " pages of keys and values, and the memory budget has ", limits.pages);
  for (const std::string& stop : request.stop) require(!stop.empty(), "stop: a text must not be empty");
  require(request.top_logprobs.value_or(0) >= 0, "top_logprobs (", request.top_logprobs.value_or(0), ") must not be negative");
  const SamplingOptions& sampling = request.sampling;
  require(std::isfinite(sampling.temperature) && sampling.temperature >= 0, "temperature (", sampling.temperature, ") must be at least 0");
  require(sampling.top_p >= 0 && sampling.top_p <= 1, "top_p (", sampling.top_p, ") must be in [0, 1]");
  require(sampling.top_k >= 0, "top_k (", sampling.top_k, ") must not be negative");
  require(std::isfinite(sampling.repetition_penalty) && sampling.repetition_penalty > 0, "repetition_penalty (",
          sampling.repetition_penalty, ") must be above 0");
}

}  // namespace pimoe
