#include "serve/engine_inbox.h"

#include "base/text.h"

#include <utility>

namespace pimoe {
namespace {

void end_all(std::vector<EngineInbox::Reload>& reloads, const std::exception_ptr& why) {
  for (EngineInbox::Reload& reload : reloads) reload.done.set_exception(why);
  reloads.clear();
}

}  // namespace

EngineInbox::EngineInbox(const EngineLimits& limits, EngineStatus status)
    : max_queue_(limits.max_queue), queue_{limits.max_queue, limits.has_several_clients}, status_(std::move(status)) {}

uint64_t EngineInbox::submit(GenerationRequest request, GenerationListener listener, int64_t beginning) {
  const std::lock_guard lock(mutex_);
  if (closing_ || failed_) throw Engine::Closed("the engine has ended");
  if (draining_) throw Engine::Closed("the engine ends what it has and takes no more");
  if (status_.waiting >= max_queue_) {
    throw Engine::QueueFull(concat(status_.waiting, " texts wait already, as many as may (max-queue)"));
  }
  const size_t client = request.client;
  const auto own = waiting_of_.find(client);
  const int64_t waits = own == waiting_of_.end() ? 0 : own->second;
  if (!queue_.may_take(status_.waiting, waits)) {
    throw Engine::QueueFull(concat(waits, " texts of this client wait already: what is left of the queue is for others (max-queue)"));
  }
  const uint64_t id = ++last_id_;
  texts_.push_back(std::make_unique<ServedText>(id, std::move(request), std::move(listener), beginning));
  ++status_.waiting;
  ++waiting_of_[client];
  ++unended_;
  wake_.notify_all();
  return id;
}

void EngineInbox::cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  cancels_.push_back(id);
  wake_.notify_all();
}

void EngineInbox::cancel_all() {
  const std::lock_guard lock(mutex_);
  cancels_all_ = true;
  wake_.notify_all();
}

std::future<void> EngineInbox::reload(const std::filesystem::path& checkpoint) {
  const std::lock_guard lock(mutex_);
  if (closing_ || failed_) throw Engine::Closed("the engine has ended");
  end_all(reloads_, std::make_exception_ptr(Engine::Replaced(concat(checkpoint.string(), " was asked for before this one began"))));
  reloads_.push_back({checkpoint, {}});
  wake_.notify_all();
  return reloads_.back().done.get_future();
}

void EngineInbox::drain() {
  std::unique_lock lock(mutex_);
  draining_ = true;
  ended_.wait(lock, [&] { return failed_ ? failure_is_told_ : unended_ == 0; });
}

void EngineInbox::close() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  wake_.notify_all();
}

EngineStatus EngineInbox::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

EngineInbox::Mail EngineInbox::take(bool takes_reload) {
  const std::lock_guard lock(mutex_);
  Mail mail;
  mail.texts.swap(texts_);
  mail.cancels.swap(cancels_);
  mail.cancels_all = std::exchange(cancels_all_, false);
  if (takes_reload && !reloads_.empty()) {
    mail.reload = std::move(reloads_.front());
    reloads_.erase(reloads_.begin());
  }
  mail.closing = closing_;
  return mail;
}

void EngineInbox::wait(std::chrono::steady_clock::duration time) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, time, [&] { return closing_ || cancels_all_ || !texts_.empty() || !cancels_.empty() || !reloads_.empty(); });
}

void EngineInbox::change_status(const Change& change) {
  const std::lock_guard lock(mutex_);
  change(status_);
}

void EngineInbox::waits_no_more(size_t client) {
  --status_.waiting;
  if (--waiting_of_.at(client) == 0) waiting_of_.erase(client);
}

void EngineInbox::note_begun(const std::vector<size_t>& clients, const Change& change) {
  const std::lock_guard lock(mutex_);
  for (const size_t client : clients) waits_no_more(client);
  change(status_);
}

void EngineInbox::note_ending(size_t client, bool waited, bool was_cancelled, const Change& change) {
  const std::lock_guard lock(mutex_);
  if (waited) waits_no_more(client);
  ++(was_cancelled ? status_.cancelled : status_.finished);
  change(status_);
}

void EngineInbox::note_heard() {
  const std::lock_guard lock(mutex_);
  --unended_;
  ended_.notify_all();
}

std::vector<std::unique_ptr<ServedText>> EngineInbox::fail(const std::exception_ptr& failure) {
  const std::lock_guard lock(mutex_);
  failed_ = true;
  end_all(reloads_, failure);
  return std::exchange(texts_, {});
}

void EngineInbox::note_all_heard() {
  const std::lock_guard lock(mutex_);
  status_.waiting = unended_ = 0;
  waiting_of_.clear();
}

void EngineInbox::note_failure_told() {
  const std::lock_guard lock(mutex_);
  failure_is_told_ = true;
  ended_.notify_all();
}

void EngineInbox::end_reloads(const std::exception_ptr& why) {
  const std::lock_guard lock(mutex_);
  end_all(reloads_, why);
}

}  // namespace pimoe
