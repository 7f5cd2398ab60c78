#pragma once

#include "base/errors.h"
#include "serve/generation_request.h"

#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// What completions come from, as the server sees it: the engine, or a script in tests. Thread-safe.
class CompletionSource {
 public:
  /// Try again later.
  struct Full : Error {
    using Error::Error;
  };
  /// Nothing is taken any more.
  struct Closed : Error {
    using Error::Error;
  };
  /// What it tells of itself, for /metrics: names without the prefix, as "pages", "prefix_hit_tokens_total".
  struct Number {
    std::string name;
    std::string help;
    double value = 0.0;
  };

  /// What alerts look at.
  struct State {
    int64_t running = 0, waiting = 0;  ///< texts
    int64_t free_pages = 0;
    double step_seconds = 0.0;               ///< of the newest step
    uint64_t generated_tokens = 0;           ///< since the start
    std::vector<int64_t> expert_slots = {};  ///< that each expert got since its weights serve; empty without any
    int64_t memory_bytes = 0;                ///< that are in use on the model's device
  };

  virtual ~CompletionSource() = default;
  /// @returns an id for cancel  @throws Full, Closed, ShapeError where the request can never be answered
  virtual uint64_t submit(GenerationRequest request, GenerationListener listener) = 0;
  virtual void cancel(uint64_t id) = 0;
  virtual std::vector<Number> numbers() const = 0;
  virtual State state() const = 0;
  /// @returns the share of all slots that each expert got; empty where there is none
  virtual std::vector<double> expert_shares() const = 0;
  virtual int64_t most_tokens() const = 0;  ///< of one text, prompt and new ones, that there is ever room for
  virtual int64_t step() const = 0;         ///< of training, of the checkpoint that new requests are answered with
};

}  // namespace pimoe
