#pragma once

#include "serve/completion_source.h"

namespace pimoe {

class Engine;

/// Completions of the engine.
class EngineSource : public CompletionSource {
 public:
  explicit EngineSource(Engine& engine) : engine_(engine) {}
  uint64_t submit(GenerationRequest request, GenerationListener listener) override;
  void cancel(uint64_t id) override;
  std::vector<Number> numbers() const override;
  std::vector<double> expert_shares() const override;
  int64_t most_tokens() const override;
  int64_t step() const override;

 private:
  Engine& engine_;
};

}  // namespace pimoe
