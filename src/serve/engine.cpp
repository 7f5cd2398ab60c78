#include "serve/engine.h"

#include "base/progress.h"
#include "base/text.h"
#include "parallel/device.h"
#include "serve/engine_checks.h"
#include "serve/engine_inbox.h"
#include "serve/scheduler.h"
#include "serve/step_orders.h"
#include "serve/step_runner.h"
#include "serve/token_updates.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
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
      : texts_(std::move(texts)),
        loader_(std::move(loader)),
        on_failure_(std::move(on_failure)),
        ranks_(model.mesh->size()),
        vocabulary_(model.model->config().vocabulary),
        room_(model.model->config().sequence_length),
        scheduling_((require_servable(*model.model), scheduler_limits(limits, *model.model, ranks_))),
        scheduler_(scheduling_),
        runner_(std::make_unique<StepRunner>(std::move(model), scheduling_.pages, scheduling_.page_tokens, scheduling_.max_batch)),
        inbox_(limits, first_status()) {
    const ServedModel& served = runner_->model();
    if (served.mesh->rank() != 0) return;
    thread_ = std::thread([this, threads = at::get_num_threads(), device = served.mesh->device()] {
      use_device(device);            // CUDA's current device is a thread's own
      at::set_num_threads(threads);  // OpenMP keeps it for each thread: a new one would take all cores
      run();
    });
  }

  ~Impl() {
    if (!thread_.joinable()) return;
    inbox_.close();
    thread_.join();
  }

  EngineInbox& inbox() { return inbox_; }

  uint64_t submit(GenerationRequest request, Listener listener) {
    require_request(request, vocabulary_, room_, scheduling_);
    return inbox_.submit(std::move(request), std::move(listener), texts_.beginning);
  }

  std::future<void> begin_reload(const std::filesystem::path& checkpoint) {
    if (!loader_) throw ConfigError("this engine was made without a way to load checkpoints");
    return inbox_.reload(checkpoint);
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
  EngineStatus first_status() const {
    const ServedModel& served = runner_->model();
    EngineStatus status;
    status.pages = status.free_pages = scheduling_.pages * ranks_;
    status.most_tokens = std::min(room_, scheduling_.pages * scheduling_.page_tokens + 1);  // the last token is drawn, and not computed
    status.step = served.step;
    status.checkpoint = served.checkpoint;
    const ModelConfig& config = served.model->config();
    if (config.moe_layers() > 0) status.expert_shares.resize(static_cast<size_t>(config.moe.experts));
    return status;
  }

  const HostCommunicator& control() const { return runner_->model().mesh->control(); }
  void order(StepOrder::Kind kind) const { ordered_by_rank_0({.kind = kind}, control()); }

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
    EngineInbox::Mail mail = inbox_.take(/*takes_reload=*/!next_model_);
    for (std::unique_ptr<ServedText>& text : mail.texts) scheduler_.add(std::move(text));
    for (const uint64_t id : mail.closing || mail.cancels_all ? scheduler_.ids() : mail.cancels) cancel_now(id);
    if (mail.closing) {
      const std::exception_ptr ended = std::make_exception_ptr(Closed("the engine has ended"));
      if (mail.reload) mail.reload->done.set_exception(ended);
      inbox_.end_reloads(ended);
      order(StepOrder::Kind::kEnd);
      return false;
    }
    if (mail.reload) read_weights(*mail.reload);
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
    std::vector<size_t> clients;
    uint64_t prompt_tokens = 0;
    const auto& running = scheduler_.running();
    for (size_t at = running.size() - static_cast<size_t>(begun); at < running.size(); ++at) {
      prompt_tokens += static_cast<uint64_t>(running[at]->prompt_tokens);
      clients.push_back(running[at]->request.client);
      if (!running[at]->needs_steps()) done.push_back(running[at]->id);
    }
    if (begun > 0) {
      inbox_.note_begun(clients, [&](EngineStatus& status) {
        status.prompt_tokens += prompt_tokens;
        status.prefix_hit_tokens = scheduler_.prefix_hit_tokens();
        note_places(status);
      });
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
    inbox_.change_status([&](EngineStatus& status) {
      status.generated_tokens += generated;
      status.last_step_seconds = seconds;
    });
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
    inbox_.wait(kIdleTime);
    progress_tick();
    control().patient_barrier();
  }

  void know_load() {
    order(StepOrder::Kind::kLoad);
    const std::vector<int64_t> load = runner_->expert_load();
    load_is_known_ = true;
    load_known_at_ = Clock::now();
    const auto all = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
    inbox_.change_status([&](EngineStatus& status) {
      status.expert_slots = load;
      for (size_t expert = 0; expert < load.size(); ++expert) {
        status.expert_shares[expert] = all > 0 ? static_cast<double>(load[expert]) / all : 0.0;
      }
    });
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
    inbox_.note_ending(text.request.client, waits, *update.ending == GenerationEnding::kCancelled,
                       [this](EngineStatus& status) { note_places(status); });
    text.listener(update);
    inbox_.note_heard();
  }

  void note_places(EngineStatus& status) const {
    status.running = static_cast<int64_t>(scheduler_.running().size());
    status.free_pages = scheduler_.free_pages();
  }

  /// Collective, with the other ranks' load().
  void read_weights(EngineInbox::Reload& reload) {
    ordered_by_rank_0({.kind = StepOrder::Kind::kReload, .checkpoint = reload.checkpoint.string()}, control());
    if (const std::exception_ptr trouble = load(reload.checkpoint)) {
      reload.done.set_exception(trouble);
      return;
    }
    inbox_.change_status([&](EngineStatus& status) {
      status.step = next_model_->step;
      status.checkpoint = next_model_->checkpoint;
    });
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
    runner_ = std::make_unique<StepRunner>(std::move(*next_model_), scheduling_.pages, scheduling_.page_tokens, scheduling_.max_batch);
    next_model_.reset();
  }

  void fail(const std::exception_ptr& failure) {
    GenerationUpdate update;
    update.ending = GenerationEnding::kFailed;
    update.error = message_of(failure);
    std::vector<std::unique_ptr<ServedText>> texts = inbox_.fail(failure);
    for (const uint64_t id : scheduler_.ids()) texts.push_back(scheduler_.remove(id));
    for (const auto& text : texts) text->listener(update);
    inbox_.change_status([this](EngineStatus& status) { note_places(status); });
    inbox_.note_all_heard();
    if (on_failure_) {
      on_failure_(failure);
    } else if (ranks_ > 1) {
      std::rethrow_exception(failure);  // ends the process, and with it the job: the others wait for this rank
    }
    inbox_.note_failure_told();
  }

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

  EngineInbox inbox_;
  std::thread thread_;  ///< the last member: it uses all others
};

Engine::Engine(ServedModel model, TokenTexts texts, const EngineLimits& limits, ModelLoader loader,
               std::function<void(std::exception_ptr)> on_failure)
    : impl_(std::make_unique<Impl>(std::move(model), std::move(texts), limits, std::move(loader), std::move(on_failure))) {}

Engine::~Engine() = default;

void Engine::follow() { impl_->follow(); }
uint64_t Engine::submit(GenerationRequest request, Listener listener) { return impl_->submit(std::move(request), std::move(listener)); }
void Engine::cancel(uint64_t id) { impl_->inbox().cancel(id); }
void Engine::cancel_all() { impl_->inbox().cancel_all(); }
EngineStatus Engine::status() const { return impl_->inbox().status(); }
void Engine::drain() { impl_->inbox().drain(); }
void Engine::reload(const std::filesystem::path& checkpoint) { begin_reload(checkpoint).get(); }
std::future<void> Engine::begin_reload(const std::filesystem::path& checkpoint) { return impl_->begin_reload(checkpoint); }

}  // namespace pimoe
