#include "serve/engine_source.h"

#include "parallel/device.h"
#include "serve/engine.h"

namespace pimoe {

uint64_t EngineSource::submit(GenerationRequest request, GenerationListener listener) {
  try {
    return engine_.submit(std::move(request), std::move(listener));
  } catch (const Engine::QueueFull& error) {
    throw Full(error.what());
  } catch (const Engine::Closed& error) {
    throw Closed(error.what());
  }
}

void EngineSource::cancel(uint64_t id) { engine_.cancel(id); }

std::vector<CompletionSource::Number> EngineSource::numbers() const {
  const EngineStatus status = engine_.status();
  const auto number = [](auto value) { return static_cast<double>(value); };
  return {{"texts_running", "Texts that are computed", number(status.running)},
          {"texts_waiting", "Texts that wait for it", number(status.waiting)},
          {"texts_finished_total", "Texts that have ended", number(status.finished)},
          {"texts_cancelled_total", "Texts whose clients left", number(status.cancelled)},
          {"pages", "Pages of keys and values", number(status.pages)},
          {"pages_free", "Pages that no text holds", number(status.free_pages)},
          {"engine_prompt_tokens_total", "Tokens of prompts, computed or found in the prefix cache", number(status.prompt_tokens)},
          {"engine_generated_tokens_total", "Tokens that were drawn", number(status.generated_tokens)},
          {"prefix_hit_tokens_total", "Tokens of prompts that were found in the prefix cache", number(status.prefix_hit_tokens)},
          {"step_seconds", "The newest step of the engine", status.last_step_seconds},
          {"checkpoint_step", "Step of training of the checkpoint that is served", number(status.step)}};
}

CompletionSource::State EngineSource::state() const {
  const EngineStatus status = engine_.status();
  return {.running = status.running,
          .waiting = status.waiting,
          .free_pages = status.free_pages,
          .step_seconds = status.last_step_seconds,
          .generated_tokens = status.generated_tokens,
          .expert_slots = status.expert_slots,
          .memory_bytes = memory_use(device_).now_bytes};
}

std::vector<double> EngineSource::expert_shares() const { return engine_.status().expert_shares; }

int64_t EngineSource::most_tokens() const { return engine_.status().most_tokens; }

int64_t EngineSource::step() const { return engine_.status().step; }

}  // namespace pimoe
