#include "parallel/watch_client.h"

#include "base/errors.h"
#include "base/text.h"
#include "parallel/quiet_thread.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstring>

namespace pimoe {
namespace {

constexpr double kConnectSeconds = 3.0;
constexpr double kStagger = 2.0;  // seconds from one rank's turn to speak for rank 0 to the next one's: the launcher ends all in less
constexpr double kMostStagger = 6.0;

void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

}  // namespace

WatchClient::WatchClient(WatchTerms terms, WatchAddress address, Logger& log)
    : terms_(std::move(terms)), address_(std::move(address)), log_(log) {
  std::snprintf(rank_0_.name.host.data(), rank_0_.name.host.size(), "%s", address_.host.c_str());
  rank_0_.name.pid = address_.pid;
  thread_ = quiet_thread([this] { watch(); });
}

WatchClient::~WatchClient() {
  ending_ = true;
  thread_.join();
}

bool WatchClient::leave(const std::string& error, int exit_code) {
  const std::lock_guard lock(mutex_);
  if (!link_ || link_->is_closed()) return false;
  const auto code = static_cast<int32_t>(exit_code);
  std::string payload(reinterpret_cast<const char*>(&code), sizeof(code));
  const Progress place = progress_at_exception();
  payload.append(reinterpret_cast<const char*>(&place), sizeof(place));
  payload += error.substr(0, WatchLink::kMostPayload - payload.size());
  link_->send(WatchFrame::kError, payload.data(), payload.size());
  return true;
}

bool WatchClient::connect(bool again) {
  std::vector<std::string> addresses = address_.addresses;
  if (address_.host == terms_.self.host.data()) addresses.insert(addresses.begin(), "127.0.0.1");
  for (const std::string& address : addresses) {
    if (ending_ && !again) return false;
    const int descriptor = connect_to(address, address_.port, kConnectSeconds);
    if (descriptor < 0) continue;
    std::string hello(reinterpret_cast<const char*>(address_.token.data()), address_.token.size());
    hello.append(reinterpret_cast<const char*>(&terms_.self), sizeof(terms_.self));
    const std::lock_guard lock(mutex_);
    link_.emplace(descriptor);
    link_->send(WatchFrame::kHello, hello.data(), hello.size());
    return true;
  }
  return false;
}

void WatchClient::watch() {
  if (!connect(/*again=*/false)) {
    log_.debug(concat("watchdog: no connection to ", address_.host, " (", join(address_.addresses, ", "), "), port ", address_.port));
    return;
  }
  now_ = watch_clock();
  rank_0_.heard_at = now_;
  double beat_at = now_;
  while (true) {
    pollfd waiting{link_->descriptor(), POLLIN, 0};
    ::poll(&waiting, 1, static_cast<int>(std::min(terms_.interval() * 1000, 100.0)));
    const double before = now_;
    now_ = watch_clock();
    // This process did not run: what rank 0 sent meanwhile has not been read yet.
    if (const double away = now_ - before - terms_.interval(); away > terms_.interval()) {
      rank_0_.heard_at += away;
      was_stopped_ = away > terms_.limit / 2;
    }
    if (now_ >= beat_at || ending_) {
      beat_at = now_ + terms_.interval();
      beat();
    }
    if (!listen()) return;
    // What lies between the two may have cut the connection. Where rank 0 is gone, nobody answers.
    if (is_cut()) {
      if (!connect(/*again=*/true)) rank_0_is(Verdict::Kind::kDead);
      rank_0_.heard_at = now_ = watch_clock();
    }
    if (now_ - rank_0_.heard_at > terms_.limit) rank_0_is(Verdict::Kind::kStopped);
    if (ending_) {
      const std::lock_guard lock(mutex_);
      link_->send(WatchFrame::kGoodbye);
      return;
    }
  }
}

void WatchClient::beat() {
  const auto beats = own_beat();
  const std::lock_guard lock(mutex_);
  link_->send(WatchFrame::kBeat, &beats, sizeof(beats));
}

bool WatchClient::listen() {
  const std::unique_lock lock(mutex_);
  link_->flush();
  link_->receive();
  while (const auto frame = link_->next()) {
    std::array<SlotBeat, kProgressSlots> beats;
    if (frame->kind == WatchFrame::kBeat && frame->payload.size() == sizeof(beats)) {
      std::memcpy(beats.data(), frame->payload.data(), sizeof(beats));
      rank_0_.hear(beats, now_);
    } else if (frame->kind == WatchFrame::kAlarm) {
      end_after_alarm();
    } else if (frame->kind == WatchFrame::kGoodbye) {
      return false;
    }
  }
  return true;
}

bool WatchClient::is_cut() {
  const std::lock_guard lock(mutex_);
  return link_->is_closed();
}

void WatchClient::end_after_alarm() {
  // A stopped process that the launcher wakes to end it leaves rank 0's record of it as it is.
  if (!was_stopped_) write_own_stacks(terms_);
  link_->send(WatchFrame::kWritten);
  sleep_for(8.0);  // rank 0 ends the job
  end_job(static_cast<int>(ExitCode::kInternal));
}

void WatchClient::rank_0_is(Verdict::Kind kind) {
  end_process_in(10.0, static_cast<int>(ExitCode::kInternal));
  write_own_stacks(terms_);
  sleep_for(std::min(kMostStagger, kStagger * (terms_.self.rank - 1)));
  write_record(terms_, rank_0_);
  // What this rank knows: rank 0's last record, and its own.
  std::vector<RankView> ranks(static_cast<size_t>(terms_.ranks));
  ranks[0] = rank_0_;
  RankView& self = ranks[static_cast<size_t>(terms_.self.rank)];
  self.name = terms_.self;
  self.hear(own_beat(), now_);
  say(log_, concat(explain({kind, {0}}, ranks, terms_.limit, now_), ". Stacks and last records: ", terms_.folder.string(),
                   "/rank-*.txt. The job ends here; the same command, with checkpoint.resume=auto, goes on from the last checkpoint"));
  end_job(static_cast<int>(ExitCode::kInternal));
}

}  // namespace pimoe
