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
constexpr double kRetrySeconds = 0.05;
constexpr double kGraceSeconds = 3.0;  // longer than rank 0 waits for a rank that is cut off: where both are there, rank 0 speaks
constexpr double kStackSeconds = 1.2;

}  // namespace

WatchClient::WatchClient(WatchTerms terms, WatchAddress address, Logger& log)
    : terms_(std::move(terms)), address_(std::move(address)), log_(log) {
  if (!terms_.names.empty()) rank_0_.name = terms_.names.front();
  thread_ = quiet_thread([this] { watch(); });
}

WatchClient::~WatchClient() {
  ending_ = true;
  thread_.join();
}

bool WatchClient::leave(const std::string& error, int exit_code) {
  const auto code = static_cast<int32_t>(exit_code);
  const Progress place = progress_at_exception();
  std::string payload(reinterpret_cast<const char*>(&code), sizeof(code));
  payload.append(reinterpret_cast<const char*>(&place), sizeof(place));
  payload += error.substr(0, WatchLink::kMostPayload - payload.size());
  const std::lock_guard lock(mutex_);
  leaving_ = payload;
  if (link_) link_->send(WatchFrame::kError, leaving_.data(), leaving_.size());
  return !is_unwatched_;
}

bool WatchClient::connect(bool again) {
  std::vector<std::string> addresses = address_.addresses;
  if (rank_0_.name.machine == terms_.self.machine) addresses.insert(addresses.begin(), "127.0.0.1");
  for (const std::string& address : addresses) {
    if (ending_ && !again) return false;
    const int descriptor = connect_to(address, address_.port, kConnectSeconds);
    if (descriptor < 0) continue;
    std::string hello(reinterpret_cast<const char*>(address_.token.data()), address_.token.size());
    hello.append(reinterpret_cast<const char*>(&terms_.self), sizeof(terms_.self));
    const std::lock_guard lock(mutex_);
    link_.emplace(descriptor);
    link_->send(WatchFrame::kHello, hello.data(), hello.size());
    if (!leaving_.empty()) link_->send(WatchFrame::kError, leaving_.data(), leaving_.size());
    return true;
  }
  return false;
}

void WatchClient::watch() {
  if (!connect(/*again=*/false)) {
    is_unwatched_ = true;
    log_.debug(
        concat("watchdog: no connection to ", rank_0_.name.host.data(), " (", join(address_.addresses, ", "), "), port ", address_.port));
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
    if (!listen()) {
      is_unwatched_ = true;
      return;
    }
    if (is_cut()) {
      mend_connection();
      beat_at = now_;
    }
    const bool was_cut = rank_0_.cut_at > 0.0;
    if (now_ - rank_0_.heard_at > terms_.limit + (was_cut ? kGraceSeconds : 0.0)) {
      if (!is_cut()) rank_0_.cut_at = 0.0;
      end_because_rank_0_is(rank_0_.is_cut(Presence::kUnknown) ? Verdict::Kind::kLost : Verdict::Kind::kStopped);
    }
    if (ending_ && !is_cut()) {
      const std::lock_guard lock(mutex_);
      link_->send(WatchFrame::kGoodbye);
      return;
    }
  }
}

// What lies between the two may have cut the connection. It is whole again when something is heard over it: the system takes one in for a stopped
// process too.
void WatchClient::mend_connection() {
  if (rank_0_.cut_at == 0.0) rank_0_.cut_at = now_;
  rank_0_.presence = presence_of(rank_0_.name, terms_.self);
  if (rank_0_.presence == Presence::kGone) end_because_rank_0_is(Verdict::Kind::kDead);
  const bool is_there_again = connect(/*again=*/true);
  if (!is_there_again) sleep_for(kRetrySeconds);
  now_ = watch_clock();
  const bool may_return = is_there_again || now_ - rank_0_.cut_at < kReturnSeconds + kGraceSeconds;
  if (rank_0_.presence == Presence::kUnknown && !may_return) end_because_rank_0_is(Verdict::Kind::kLost);
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
      rank_0_.cut_at = 0.0;
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

void WatchClient::end_because_rank_0_is(Verdict::Kind kind) {
  end_process_in(14.0, static_cast<int>(ExitCode::kInternal));
  if (kind == Verdict::Kind::kDead) sleep_for(kGatherSeconds);
  // What this rank knows: rank 0's last record, its own, and which processes of its machine are gone.
  std::vector<RankView> ranks(static_cast<size_t>(terms_.ranks));
  for (const RankName& name : terms_.names) {
    RankView& rank = ranks[static_cast<size_t>(name.rank)];
    rank.name = name;
    rank.presence = presence_of(name, terms_.self);
    if (rank.presence != Presence::kGone) continue;
    rank.link = RankView::Link::kOpen;
    rank.cut_at = now_;
  }
  ranks[0] = rank_0_;
  RankView& self = ranks[static_cast<size_t>(terms_.self.rank)];
  self.name = terms_.self;
  self.hear(own_beat(), now_);
  const std::string text = explain({kind, {0}}, ranks, terms_.limit, now_) + terms_.advice();
  if (takes_the_word(terms_, text)) {
    say(log_, text);
    write_own_stacks(terms_);
    write_record(terms_, rank_0_);
    sleep_for(kStackSeconds);  // the others write theirs
  } else {
    write_own_stacks(terms_);
    sleep_for(5.0);  // who speaks ends the job
  }
  end_job(static_cast<int>(ExitCode::kInternal));
}

}  // namespace pimoe
