#pragma once

#include "serve/completion_source.h"

#include <c10/core/Device.h>

namespace pimoe {

class Engine;

/// Completions of the engine.
class EngineSource : public CompletionSource {
 public:
  /// @param device  the model's
  EngineSource(Engine& engine, c10::Device device) : engine_(engine), device_(device) {}
  uint64_t submit(GenerationRequest request, GenerationListener listener) override;
  void cancel(uint64_t id) override;
  std::vector<Number> numbers() const override;
  State state() const override;
  std::vector<double> expert_shares() const override;
  int64_t most_tokens() const override;
  int64_t step() const override;

 private:
  Engine& engine_;
  c10::Device device_;
};

}  // namespace pimoe
