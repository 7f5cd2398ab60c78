#pragma once

#include "base/errors.h"
#include "serve/generation_request.h"
#include "serve/served_model.h"

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

struct EngineLimits {
  int64_t max_batch = 64;           ///< requests that are computed at a time, over all ranks
  int64_t max_queue = 1024;         ///< requests that wait for that
  int64_t memory_budget_bytes = 0;  ///< of keys and values on each rank; 0: room for max_batch texts of the model's length
  int64_t prefill_chunk = 256;      ///< tokens of prompts that a step computes on a rank, besides one of each text that goes on
  int64_t page_tokens = 16;         ///< positions of a page of keys and values
  bool prefix_cache = true;         ///< pages of ended texts serve prompts that begin equally, while nobody needs their room
  bool has_several_clients =
      false;  ///< requests are of more than one client: an eighth of each room is kept for those who have little of it
};

struct EngineStatus {
  int64_t running = 0, waiting = 0;
  int64_t free_pages = 0, pages = 0;  ///< over all ranks; pages of the prefix cache that nobody reads count as free
  uint64_t prompt_tokens = 0;         ///< computed or found in the prefix cache
  uint64_t generated_tokens = 0, finished = 0, cancelled = 0;
  uint64_t prefix_hit_tokens = 0;  ///< of prompts, found in the prefix cache
  double last_step_seconds = 0.0;
  /// [E] slots that each expert got so far, over MoE layers and ranks; they count anew with another checkpoint. Empty before the first request
  std::vector<int64_t> expert_slots;
  std::vector<double> expert_shares;  ///< [E] each one's share of all of them; empty without experts
  int64_t most_tokens = 0;            ///< of one text, prompt and new ones: what the model sees and a rank's pages hold
  int64_t step = 0;                   ///< of training, of the checkpoint that new requests are answered with
  std::string checkpoint;             ///< its folder
};

/// Continuous batching over one loaded model. Each step computes, in one forward pass, a token of every text that goes on and a chunk of the
/// prompts that have come; new requests join and ended ones leave between steps.
///
/// A request gets the pages of its prompt and max_tokens when it begins, so that nothing that has begun is ever put back. What waits begins in
/// the order of priority, then of the client of which the fewest texts run, then of arrival: the first waits until there is room for it, and none
/// passes it. Where there are several clients, the last eighth of the places of texts, of the pages and of the queue is for those that have less
/// than an eighth of them: whoever comes begins, whatever another client has sent.
///
/// Over several ranks rank 0 has the queue, plans, and draws tokens; each text's keys and values lie on one rank, which computes its
/// tokens, and MoE layers exchange rows as in training.
///
/// Thread-safe on rank 0, where a thread of the engine's own runs the model. Other ranks call follow() and nothing else.
class Engine {
 public:
  using Listener = GenerationListener;
  /// The queue has max_queue requests: try again later.
  struct QueueFull : Error {
    using Error::Error;
  };
  /// Of a reload: another was asked for before it began.
  struct Replaced : Error {
    using Error::Error;
  };
  /// The engine drains, or has failed: it takes no more.
  struct Closed : Error {
    using Error::Error;
  };

  /// Collective.
  /// @param loader      for reload; null: reload is refused
  /// @param on_failure  called on the engine's thread when a step has failed, after every request was told; the engine takes no more then. On several
  ///                    ranks it has to end the job, whose other ranks wait (MpiSession::abort); null: the process is terminated there
  /// @throws ConfigError for limits below 1, a budget without room for a page, or a model whose routers go by the batch
  Engine(ServedModel model, TokenTexts texts, const EngineLimits& limits, ModelLoader loader = nullptr,
         std::function<void(std::exception_ptr)> on_failure = nullptr);
  /// Cancels what is left, and lets the other ranks return from follow().
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// On the other ranks: computes what rank 0 plans, until its engine ends.
  void follow();

  /// @returns an id for cancel
  /// @throws QueueFull; Closed; ShapeError where the request is none, or can never fit: prompt and max_tokens beyond the model's length, or beyond the
  ///         budget's pages
  uint64_t submit(GenerationRequest request, Listener listener);
  /// The listener hears kCancelled, if nothing else has ended the request before the next step; an id that has ended is ignored.
  void cancel(uint64_t id);
  /// The same of all that were taken until now.
  void cancel_all();
  EngineStatus status() const;
  /// Takes no more, and returns when all that were taken have ended; if a step has failed, when on_failure has returned.
  void drain();
  /// Requests that have begun end with the weights they began with; those that wait, and new ones, wait for these to end and take the new.
  /// Steps stand still while weights are read, and until the last old text has ended both models are in memory.
  /// @returns when the weights are read
  /// @throws what the loader does, and changes nothing then: CheckpointError naming the checkpoint for what is no Error, as memory that is short;
  ///         ConfigError where the new model has another vocabulary, length, or number of experts, choices or layers of them; Replaced
  void reload(const std::filesystem::path& checkpoint);
  /// As reload, without waiting: the future is ready when the weights are read, and throws what reload does. One that has not begun to be read gives way to
  /// this one. @throws ConfigError without a loader; Closed
  std::future<void> begin_reload(const std::filesystem::path& checkpoint);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pimoe
