#include "serve/engine.h"

#include "base/progress.h"
#include "base/text.h"
#include "model/generation.h"
#include "parallel/device.h"
#include "serve/scheduler.h"
#include "serve/step_orders.h"
#include "serve/step_runner.h"
#include "serve/token_updates.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <future>
#include <limits>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

namespace pimoe {
namespace {

using Clock = std::chrono::steady_clock;

/// Other ranks hear of an engine that has nothing to do at least so often, so that whoever watches them sees them move.
constexpr std::chrono::seconds kIdleTime{2};
/// What experts got is added up over ranks as often.
constexpr std::chrono::milliseconds kLoadTime{500};

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
          .prefix_cache = limits.prefix_cache};
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

std::string message_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "unknown error";
  }
}

}  // namespace

class Engine::Impl {
 public:
  Impl(ServedModel model, TokenTexts texts, const EngineLimits& limits, ModelLoader loader,
       std::function<void(std::exception_ptr)> on_failure)
      : limits_(limits),
        texts_(std::move(texts)),
        loader_(std::move(loader)),
        on_failure_(std::move(on_failure)),
        ranks_(model.mesh->size()),
        vocabulary_(model.model->config().vocabulary),
        room_(model.model->config().sequence_length),
        scheduling_((require_servable(*model.model), scheduler_limits(limits, *model.model, ranks_))),
        scheduler_(scheduling_),
        runner_(std::make_unique<StepRunner>(std::move(model), scheduling_.pages, scheduling_.page_tokens)) {
    const ServedModel& served = runner_->model();
    status_.pages = scheduling_.pages * ranks_;
    status_.most_tokens = std::min(room_, scheduling_.pages * scheduling_.page_tokens + 1);  // the last token is drawn, and not computed
    status_.free_pages = status_.pages;
    status_.step = served.step;
    status_.checkpoint = served.checkpoint;
    if (served.model->config().moe_layers() > 0) status_.expert_utilization.resize(static_cast<size_t>(served.model->config().moe.experts));
    if (served.mesh->rank() != 0) return;
    thread_ = std::thread([this, threads = at::get_num_threads(), device = served.mesh->device()] {
      use_device(device);            // CUDA's current device is a thread's own
      at::set_num_threads(threads);  // OpenMP keeps it for each thread: a new one would take all cores
      run();
    });
  }

  ~Impl() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  uint64_t submit(GenerationRequest request, Listener listener) {
    check(request);
    const std::lock_guard lock(mutex_);
    if (closing_ || failed_) throw Closed("the engine has ended");
    if (draining_) throw Closed("the engine ends what it has and takes no more");
    if (waiting_ >= limits_.max_queue) throw QueueFull(concat(waiting_, " requests wait already, as many as may (max-queue)"));
    const uint64_t id = ++last_id_;
    inbox_.push_back(std::make_unique<ServedText>(id, std::move(request), std::move(listener), texts_.beginning));
    ++waiting_;
    ++unended_;
    wake_.notify_all();
    return id;
  }

  void cancel(uint64_t id) {
    const std::lock_guard lock(mutex_);
    cancels_.push_back(id);
    wake_.notify_all();
  }

  EngineStatus status() const {
    const std::lock_guard lock(mutex_);
    EngineStatus status = status_;
    status.waiting = waiting_;
    return status;
  }

  void drain() {
    std::unique_lock lock(mutex_);
    draining_ = true;
    ended_.wait(lock, [&] { return failed_ ? failure_is_told_ : unended_ == 0; });
  }

  std::future<void> begin_reload(const std::filesystem::path& checkpoint) {
    if (!loader_) throw ConfigError("this engine was made without a way to load checkpoints");
    std::future<void> done;
    {
      const std::lock_guard lock(mutex_);
      if (closing_ || failed_) throw Closed("the engine has ended");
      end_reloads(std::make_exception_ptr(Replaced(concat(checkpoint.string(), " was asked for before this one began"))));
      reloads_.push_back({checkpoint, {}});
      done = reloads_.back().done.get_future();
    }
    wake_.notify_all();
    return done;
  }

  void follow() {
    while (true) {
      const StepOrder order = ordered_by_rank_0({}, control());
      switch (order.kind) {
        case StepOrder::Kind::kStep: runner_->run(order.steps, order.experts); break;
        case StepOrder::Kind::kIdle: control().patient_barrier(); break;
        case StepOrder::Kind::kLoad: runner_->expert_load(); break;
        case StepOrder::Kind::kReload: load(order.checkpoint); break;
        case StepOrder::Kind::kSwitch: switch_model(); break;
        case StepOrder::Kind::kEnd: return;
      }
    }
  }

 private:
  struct Reload {
    std::filesystem::path checkpoint;
    std::promise<void> done;
  };

  const HostCommunicator& control() const { return runner_->model().mesh->control(); }
  void order(StepOrder::Kind kind) const { ordered_by_rank_0({.kind = kind}, control()); }

  void check(const GenerationRequest& request) const {
    const auto require = [](bool holds, auto&&... parts) {
      if (!holds) throw ShapeError(concat(parts...));
    };
    for (const int64_t token : request.prompt) {
      require(token >= 0 && token < vocabulary_, "prompt: token ", token, " must be in [0, ", vocabulary_, ")");
    }
    const auto tokens = std::max<int64_t>(1, static_cast<int64_t>(request.prompt.size()));
    require(request.max_tokens >= 0, "max_tokens (", request.max_tokens, ") must not be negative");
    require(request.max_tokens <= room_ && tokens + request.max_tokens <= room_, "a prompt of ", tokens, " tokens and max_tokens (",
            request.max_tokens, ") go beyond the ", room_, " that the model sees (model.sequence_length)");
    const int64_t pages = KeyValueCache::pages_for(std::max<int64_t>(0, tokens + request.max_tokens - 1), scheduling_.page_tokens);
    require(pages <= scheduling_.pages, "a prompt of ", tokens, " tokens and max_tokens (", request.max_tokens, ") need ", pages,
            " pages of keys and values, and the memory budget has ", scheduling_.pages);
    for (const std::string& stop : request.stop) require(!stop.empty(), "stop: a text must not be empty");
    require(request.top_logprobs.value_or(0) >= 0, "top_logprobs (", request.top_logprobs.value_or(0), ") must not be negative");
    const SamplingOptions& sampling = request.sampling;
    require(std::isfinite(sampling.temperature) && sampling.temperature >= 0, "temperature (", sampling.temperature,
            ") must be at least 0");
    require(sampling.top_p >= 0 && sampling.top_p <= 1, "top_p (", sampling.top_p, ") must be in [0, 1]");
    require(sampling.top_k >= 0, "top_k (", sampling.top_k, ") must not be negative");
    require(std::isfinite(sampling.repetition_penalty) && sampling.repetition_penalty > 0, "repetition_penalty (",
            sampling.repetition_penalty, ") must be above 0");
  }

  void run() {
    try {
      while (turn()) {
      }
    } catch (...) {
      fail(std::current_exception());
    }
  }

  /// Takes in what has come, and makes one step. @returns whether the engine goes on
  bool turn() {
    std::vector<uint64_t> cancels;
    std::optional<Reload> reload;
    bool closing = false;
    {
      const std::lock_guard lock(mutex_);
      for (std::unique_ptr<ServedText>& text : inbox_) scheduler_.add(std::move(text));
      inbox_.clear();
      cancels.swap(cancels_);
      if (!reloads_.empty() && !next_model_) {
        reload = std::move(reloads_.front());
        reloads_.erase(reloads_.begin());
      }
      closing = closing_;
    }
    if (closing) cancels = scheduler_.ids();
    for (const uint64_t id : cancels) cancel_now(id);
    if (closing) {
      const std::exception_ptr ended = std::make_exception_ptr(Closed("the engine has ended"));
      if (reload) reload->done.set_exception(ended);
      {
        const std::lock_guard lock(mutex_);
        end_reloads(ended);
      }
      order(StepOrder::Kind::kEnd);
      return false;
    }
    if (reload) read_weights(*reload);
    if (next_model_ && scheduler_.running().empty()) {
      order(StepOrder::Kind::kSwitch);
      switch_model();
      scheduler_.forget_prefixes();
    }
    if (!next_model_) begin_texts();
    const PassPlan plan = scheduler_.plan();
    if (std::all_of(plan.begin(), plan.end(), [](const auto& parts) { return parts.empty(); })) {
      rest();
    } else {
      step(plan);
    }
    return true;
  }

  void begin_texts() {
    const int64_t begun = scheduler_.admit();
    std::vector<uint64_t> done;
    uint64_t prompt_tokens = 0;
    const auto& running = scheduler_.running();
    for (size_t at = running.size() - static_cast<size_t>(begun); at < running.size(); ++at) {
      prompt_tokens += static_cast<uint64_t>(running[at]->prompt_tokens);
      if (!running[at]->needs_steps()) done.push_back(running[at]->id);
    }
    if (begun > 0) {
      const std::lock_guard lock(mutex_);
      waiting_ -= begun;
      status_.prompt_tokens += prompt_tokens;
      status_.prefix_hit_tokens = scheduler_.prefix_hit_tokens();
      note_places();
    }
    for (const uint64_t id : done) {
      const std::unique_ptr<ServedText> text = scheduler_.remove(id);
      GenerationUpdate update = update_without_step(*text, texts_);
      update.step = runner_->model().step;
      tell(*text, update, /*waits=*/false);
    }
  }

  void step(const PassPlan& plan) {
    const auto begun = Clock::now();
    StepOrder next{.kind = StepOrder::Kind::kStep};
    for (const std::vector<TextPart>& parts : plan) {
      RankStep of_rank;
      for (const TextPart& part : parts) {
        const ServedText& text = *part.text;
        const int64_t pages = KeyValueCache::pages_for(text.kept + part.count, scheduling_.page_tokens);
        of_rank.parts.push_back({{{text.pages.begin(), text.pages.begin() + pages}, text.kept, part.count}, part.scored});
        of_rank.tokens.insert(of_rank.tokens.end(), text.tokens.begin() + text.kept, text.tokens.begin() + text.kept + part.count);
        next.experts = next.experts || (text.request.trace_experts && part.scored > 0);
      }
      next.steps.push_back(std::move(of_rank));
    }
    next = ordered_by_rank_0(std::move(next), control());
    const RankedScores scores(runner_->run(next.steps, next.experts));
    const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();

    std::vector<std::pair<ServedText*, GenerationUpdate>> updates;
    uint64_t generated = 0;
    int64_t row = 0;
    for (const std::vector<TextPart>& parts : plan) {
      for (const TextPart& part : parts) {
        const int64_t before = part.text->added();
        scheduler_.computed(part);
        updates.emplace_back(part.text, update_of(*part.text, part, scores, row, texts_));
        updates.back().second.step = runner_->model().step;
        generated += static_cast<uint64_t>(part.text->added() - before);
        row += part.scored;
      }
    }
    {
      const std::lock_guard lock(mutex_);
      status_.generated_tokens += generated;
      status_.last_step_seconds = seconds;
    }
    load_is_known_ = false;
    for (auto& [text, update] : updates) {
      if (update.ending) {
        const std::unique_ptr<ServedText> ended = scheduler_.remove(text->id);
        tell(*ended, update, /*waits=*/false);
      } else if (!update.tokens.empty()) {
        text->listener(update);
      }
    }
    if (Clock::now() - load_known_at_ > kLoadTime) know_load();
  }

  /// Nothing can be computed: waits for something new.
  void rest() {
    if (!load_is_known_) know_load();
    order(StepOrder::Kind::kIdle);
    {
      std::unique_lock lock(mutex_);
      note_places();
      wake_.wait_for(lock, kIdleTime, [&] { return closing_ || !inbox_.empty() || !cancels_.empty() || !reloads_.empty(); });
      progress_tick();
    }
    control().patient_barrier();
  }

  void know_load() {
    order(StepOrder::Kind::kLoad);
    const std::vector<int64_t> load = runner_->expert_load();
    load_is_known_ = true;
    load_known_at_ = Clock::now();
    const auto all = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
    const std::lock_guard lock(mutex_);
    status_.expert_slots = load;
    for (size_t expert = 0; expert < load.size(); ++expert) {
      status_.expert_utilization[expert] = all > 0 ? static_cast<double>(load[expert]) / all : 0.0;
    }
  }

  void cancel_now(uint64_t id) {
    const auto& running = scheduler_.running();
    const bool waits = std::none_of(running.begin(), running.end(), [&](const auto& each) { return each->id == id; });
    const std::unique_ptr<ServedText> text = scheduler_.remove(id);
    if (!text) return;
    GenerationUpdate update;
    update.ending = GenerationEnding::kCancelled;
    update.tail = text->stream.rest();
    tell(*text, update, waits);
  }

  /// The last that a listener hears. @param waits  the text has not begun
  void tell(const ServedText& text, const GenerationUpdate& update, bool waits) {
    {
      const std::lock_guard lock(mutex_);
      if (waits) --waiting_;
      ++(*update.ending == GenerationEnding::kCancelled ? status_.cancelled : status_.finished);
      note_places();
    }
    text.listener(update);
    // Who drains may end the engine, and what the listener belongs to, once the listener has heard.
    const std::lock_guard lock(mutex_);
    --unended_;
    ended_.notify_all();
  }

  /// Of those that have not begun. REQUIRES the lock
  void end_reloads(const std::exception_ptr& why) {
    for (Reload& reload : reloads_) reload.done.set_exception(why);
    reloads_.clear();
  }

  /// REQUIRES the lock
  void note_places() {
    status_.running = static_cast<int64_t>(scheduler_.running().size());
    status_.free_pages = scheduler_.free_pages();
  }

  /// Collective, with the other ranks' load().
  void read_weights(Reload& reload) {
    ordered_by_rank_0({.kind = StepOrder::Kind::kReload, .checkpoint = reload.checkpoint.string()}, control());
    if (const std::exception_ptr trouble = load(reload.checkpoint)) {
      reload.done.set_exception(trouble);
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      status_.step = next_model_->step;
      status_.checkpoint = next_model_->checkpoint;
    }
    reload.done.set_value();
  }

  /// @returns why there is no next model, on every rank
  std::exception_ptr load(const std::filesystem::path& checkpoint) {
    std::exception_ptr trouble;
    std::string said;
    try {
      ServedModel next = loader_(checkpoint);
      require_servable(*next.model);
      require_alike(*next.model, *runner_->model().model);
      next_model_ = std::move(next);
    } catch (const Error& error) {
      trouble = std::current_exception();
      said = error.what();
    } catch (...) {  // the contract: whatever keeps a model from being read, memory that is short too, costs the reload alone
      said = concat(checkpoint.string(), ": ", message_of(std::current_exception()));
      trouble = std::make_exception_ptr(CheckpointError(said));
    }
    const std::string agreed = control().agree(said);
    if (agreed.empty()) return nullptr;
    next_model_.reset();
    return trouble ? trouble : std::make_exception_ptr(CheckpointError(agreed));
  }

  void switch_model() {
    runner_.reset();  // the old pages before the new ones
    runner_ = std::make_unique<StepRunner>(std::move(*next_model_), scheduling_.pages, scheduling_.page_tokens);
    next_model_.reset();
  }

  void fail(const std::exception_ptr& failure) {
    GenerationUpdate update;
    update.ending = GenerationEnding::kFailed;
    update.error = message_of(failure);
    std::vector<std::unique_ptr<ServedText>> texts;
    {
      const std::lock_guard lock(mutex_);
      failed_ = true;
      end_reloads(failure);
      texts.swap(inbox_);
    }
    for (const uint64_t id : scheduler_.ids()) texts.push_back(scheduler_.remove(id));
    for (const auto& text : texts) text->listener(update);
    {
      const std::lock_guard lock(mutex_);
      waiting_ = unended_ = 0;
      note_places();
    }
    ended_.notify_all();
    if (on_failure_) {
      on_failure_(failure);
    } else if (ranks_ > 1) {
      std::rethrow_exception(failure);  // ends the process, and with it the job: the others wait for this rank
    }
    const std::lock_guard lock(mutex_);
    failure_is_told_ = true;
    ended_.notify_all();
  }

  const EngineLimits limits_;
  const TokenTexts texts_;
  const ModelLoader loader_;
  const std::function<void(std::exception_ptr)> on_failure_;
  const int ranks_;
  const int64_t vocabulary_;
  const int64_t room_;  ///< positions that the model sees
  const SchedulerLimits scheduling_;

  // Of the engine's thread alone, but for the constructor:
  Scheduler scheduler_;
  std::unique_ptr<StepRunner> runner_;
  std::optional<ServedModel> next_model_;  ///< takes the other's place when nothing runs
  bool load_is_known_ = true;
  Clock::time_point load_known_at_ = Clock::now();

  mutable std::mutex mutex_;
  std::condition_variable wake_;   ///< the engine's thread
  std::condition_variable ended_;  ///< who drains
  std::vector<std::unique_ptr<ServedText>> inbox_;
  std::vector<uint64_t> cancels_;
  std::vector<Reload> reloads_;
  uint64_t last_id_ = 0;
  int64_t waiting_ = 0;  ///< requests that have not begun
  int64_t unended_ = 0;
  bool draining_ = false, closing_ = false, failed_ = false;
  bool failure_is_told_ = false;  ///< on_failure has returned
  EngineStatus status_;

  std::thread thread_;  ///< the last member: it uses all others
};

Engine::Engine(ServedModel model, TokenTexts texts, const EngineLimits& limits, ModelLoader loader,
               std::function<void(std::exception_ptr)> on_failure)
    : impl_(std::make_unique<Impl>(std::move(model), std::move(texts), limits, std::move(loader), std::move(on_failure))) {}

Engine::~Engine() = default;

void Engine::follow() { impl_->follow(); }
uint64_t Engine::submit(GenerationRequest request, Listener listener) { return impl_->submit(std::move(request), std::move(listener)); }
void Engine::cancel(uint64_t id) { impl_->cancel(id); }
EngineStatus Engine::status() const { return impl_->status(); }
void Engine::drain() { impl_->drain(); }
void Engine::reload(const std::filesystem::path& checkpoint) { begin_reload(checkpoint).get(); }
std::future<void> Engine::begin_reload(const std::filesystem::path& checkpoint) { return impl_->begin_reload(checkpoint); }

}  // namespace pimoe
