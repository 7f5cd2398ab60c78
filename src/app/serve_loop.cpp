#include "app/serve_loop.h"

#include "base/text.h"
#include "parallel/quiet_thread.h"
#include "serve/reload_watch.h"

#include <csignal>
#include <ctime>

#include <algorithm>
#include <chrono>
#include <utility>

namespace pimoe {
namespace {

constexpr double kLookSeconds = 0.5;
constexpr double kAnswersSeconds = 5.0;  // for answers that are made, to reach clients

sigset_t signals_of_server() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP}) sigaddset(&set, number);
  return set;
}

void leave(const ServeLoopOptions& options, const ServeSignals& signals, Engine& engine, CompletionService& service, HttpServer& server,
           Logger& log) {
  const EngineStatus status = engine.status();
  log.info(
      concat("leaving: ", counted(status.running + status.waiting, "text"), " go on for at most ", human_duration(options.drain_seconds)));
  service.close("the server is leaving");
  std::promise<void> drained;
  std::future<void> is_drained = drained.get_future();
  std::thread waiter = quiet_thread([&] {
    engine.drain();
    drained.set_value();
  });
  const auto begun = std::chrono::steady_clock::now();
  const auto has_drained = [&] { return is_drained.wait_for(std::chrono::seconds(0)) == std::future_status::ready; };
  while (!has_drained() && std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count() < options.drain_seconds) {
    // SIGUSR1 and SIGUSR2 are a launcher's: mpirun passes one on that its ranks may have been sent besides.
    const int number = signals.wait(0.05);
    if (number == SIGTERM || number == SIGINT) break;
  }
  if (has_drained()) {
    server.stop(kAnswersSeconds);
  } else {
    log.warning("texts that still go on are cancelled");
    engine.cancel_all();
    // Of an engine that does not answer, as where a rank is dead, nobody waits to hear.
    const auto time = std::chrono::duration<double>(kAnswersSeconds);
    server.stop(is_drained.wait_for(time) == std::future_status::ready ? kAnswersSeconds : 0);
  }
  waiter.join();
}

}  // namespace

ServeSignals::ServeSignals() {
  const sigset_t set = signals_of_server();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

int ServeSignals::wait(double seconds) const {
  const sigset_t set = signals_of_server();
  timespec time{};
  time.tv_sec = static_cast<time_t>(seconds);
  time.tv_nsec = static_cast<long>((seconds - static_cast<double>(time.tv_sec)) * 1e9);
  const int number = sigtimedwait(&set, nullptr, &time);
  return number > 0 ? number : 0;
}

void EngineFailure::set(std::exception_ptr failure) {
  const std::lock_guard lock(mutex_);
  failure_ = std::move(failure);
}

std::exception_ptr EngineFailure::get() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void serve_until_told(const ServeLoopOptions& options, const ServeSignals& signals, Engine& engine, const EngineFailure& failure,
                      CompletionService& service, HttpServer& server, ServeMonitor& monitor, Logger& log) {
  ReloadWatch reloads(options.checkpoint, engine, log);
  auto looked = std::chrono::steady_clock::now();
  auto measured = looked;
  const auto leave_now = [&] {
    leave(options, signals, engine, service, server, log);
    if (const std::exception_ptr failed = failure.get()) std::rethrow_exception(failed);  // while it drained
  };
  while (true) {
    const int number = signals.wait(kLookSeconds);
    if (const std::exception_ptr failed = failure.get()) {
      service.close("the model failed");
      server.stop(kAnswersSeconds);
      std::rethrow_exception(failed);
    }
    const auto now = std::chrono::steady_clock::now();
    monitor.look([&] {
      const double seconds = std::chrono::duration<double>(now - std::exchange(measured, now)).count();
      return service.since_last(std::max(seconds, 1e-3));
    });
    if (monitor.stops()) return leave_now();
    const bool is_due = options.reload_seconds > 0 && std::chrono::duration<double>(now - looked).count() >= options.reload_seconds;
    reloads.poll();
    if (number == SIGHUP || is_due) {
      reloads.look(number == SIGHUP);
      looked = now;
    } else if (number != 0) {
      return leave_now();
    }
  }
}

}  // namespace pimoe
