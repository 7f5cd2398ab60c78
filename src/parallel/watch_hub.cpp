#include "parallel/watch_hub.h"

#include "base/errors.h"
#include "base/text.h"
#include "parallel/quiet_thread.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pimoe {
namespace {

constexpr double kHelloSeconds = 10.0;
constexpr double kStackSeconds = 1.2;
constexpr double kQuietSeconds = 3.0;
constexpr int kCutMilliseconds = 20;  // between two looks at a rank that is cut off
constexpr int kStrangers = 64;        // connections without a hello, beyond the ranks that are still awaited

using Link = RankView::Link;

/// A descriptor for each rank, beside those that training needs.
void allow_descriptors(int ranks) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const auto wanted = std::min<rlim_t>(limit.rlim_max, limit.rlim_cur + static_cast<rlim_t>(ranks));
  if (limit.rlim_cur == RLIM_INFINITY || ranks < 256) return;
  limit.rlim_cur = wanted;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

WatchHub::WatchHub(WatchTerms terms, Logger& log) : terms_(std::move(terms)), log_(log), token_(random_token()) {
  allow_descriptors(terms_.ranks);
  ranks_.resize(static_cast<size_t>(terms_.ranks));
  returns_.resize(ranks_.size());
  for (size_t rank = 0; rank < ranks_.size(); ++rank) ranks_[rank].name.rank = static_cast<int32_t>(rank);
  for (const RankName& name : terms_.names) ranks_[static_cast<size_t>(name.rank)].name = name;
  ranks_[0].name = terms_.self;
}

void WatchHub::begin() {
  thread_ = quiet_thread([this] { watch(); });
}

WatchHub::~WatchHub() {
  ending_ = true;
  if (thread_.joinable()) thread_.join();
}

void WatchHub::leave(const std::string& error, int exit_code) {
  const std::lock_guard lock(mutex_);
  error_ = error;
  exit_code_ = exit_code;
}

void WatchHub::watch() {
  begun_ = now_ = watch_clock();
  double beat_at = now_;
  while (true) {
    std::vector<pollfd> waiting = {{listener_.descriptor(), POLLIN, 0}};
    for (const Peer& peer : peers_) {
      waiting.push_back({peer.link.descriptor(), static_cast<short>(POLLIN | (peer.link.has_unsent() ? POLLOUT : 0)), 0});
    }
    const bool any_cut = std::any_of(ranks_.begin(), ranks_.end(), [](const RankView& rank) { return rank.cut_at > 0.0; });
    ::poll(waiting.data(), waiting.size(), any_cut ? kCutMilliseconds : static_cast<int>(terms_.interval() * 250));

    const double before = now_;
    now_ = watch_clock();
    if (const double away = now_ - before - terms_.interval(); away > terms_.interval()) {
      if (away > terms_.limit / 2) quiet_until_ = now_ + kQuietSeconds;
      // This process did not run: what the others did meanwhile has not been heard yet, and is not held against them.
      for (RankView& rank : ranks_) {
        rank.heard_at += away;
        if (rank.cut_at > 0.0) rank.cut_at += away;
        for (RankView::SlotView& slot : rank.slots) {
          slot.moved_at += away;
          slot.ran_at += away;
        }
      }
    }
    take_in();
    look_after_cut_ranks();
    if (now_ < beat_at && !urgent_) continue;
    if (now_ >= beat_at) {
      beat_at = now_ + terms_.interval();
      const auto beats = own_beat();
      ranks_[0].hear(beats, now_);
      for (Peer& peer : peers_) {
        if (peer.rank >= 0) peer.link.send(WatchFrame::kBeat, &beats, sizeof(beats));
      }
      tell_about_missing_ranks();
    }
    urgent_ = false;
    {
      const std::lock_guard lock(mutex_);
      if (!error_.empty() && ranks_[0].error.empty()) {
        ranks_[0].error = error_;
        ranks_[0].exit_code = exit_code_;
        ranks_[0].failed_at = progress_at_exception();
        ranks_[0].error_at = now_;
      }
    }
    if (ending_ && ranks_[0].link == Link::kOpen) ranks_[0].link = Link::kGoodbye;
    const Verdict verdict = judge(ranks_, terms_.limit, now_);
    if (verdict.kind != Verdict::Kind::kFine && now_ >= quiet_until_) end(verdict);
    if (is_over()) break;
  }
  for (Peer& peer : peers_) peer.link.send(WatchFrame::kGoodbye);
}

bool WatchHub::is_over() const {
  const auto is_watched = [](const RankView& rank) { return rank.link == Link::kOpen; };
  return ending_ && std::none_of(ranks_.begin() + 1, ranks_.end(), is_watched);
}

void WatchHub::take_in() {
  const auto strangers = std::count_if(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.rank < 0; });
  for (auto room = terms_.ranks + kStrangers - strangers; room > 0; --room) {
    const int descriptor = listener_.accept();
    if (descriptor < 0) break;
    peers_.push_back({WatchLink(descriptor), -1, now_, false});
  }
  for (auto peer = peers_.begin(); peer != peers_.end();) {
    peer->link.flush();
    peer->link.receive();
    while (const auto frame = peer->link.next()) hear(*peer, *frame);
    bool gone = peer->link.is_closed();
    if (peer->rank < 0) {
      gone = gone || now_ - peer->since > kHelloSeconds;
    } else if (gone) {
      RankView& rank = ranks_[static_cast<size_t>(peer->rank)];
      if (rank.link == Link::kOpen && rank.error.empty() && rank.cut_at == 0.0) rank.cut_at = now_;
    }
    peer = gone ? peers_.erase(peer) : std::next(peer);
  }
}

void WatchHub::look_after_cut_ranks() {
  for (RankView& rank : ranks_) {
    if (rank.cut_at == 0.0 || rank.link != Link::kOpen) continue;
    rank.presence = presence_of(rank.name, terms_.self);
    urgent_ = urgent_ || rank.presence == Presence::kGone || now_ - rank.cut_at >= kReturnSeconds;
  }
}

void WatchHub::welcome(Peer& peer, const std::string& hello) {
  RankName name;
  std::memcpy(&name, hello.data() + token_.size(), sizeof(name));
  name.host.back() = 0;
  if (name.rank <= 0 || name.rank >= terms_.ranks) return;
  RankView& rank = ranks_[static_cast<size_t>(name.rank)];
  if (rank.link == Link::kOpen && rank.name.pid == name.pid) {
    // Something between the two cut the connection, and this end may not know it yet.
    for (Peer& earlier : peers_) {
      if (earlier.rank != name.rank) continue;
      earlier.link.receive();
      while (const auto frame = earlier.link.next()) hear(earlier, *frame);
      earlier.rank = -1;
      earlier.since = -kHelloSeconds;
    }
    rank.cut_at = 0.0;
    // Something that cuts it all the time is told of at the first three, the 8th, 16th and so on.
    const int times = ++returns_[static_cast<size_t>(name.rank)];
    if (times <= 3 || (times >= 8 && (times & (times - 1)) == 0)) {
      log_.warning(concat("watchdog: the connection of ", describe(name), " was cut, and is there again",
                          times == 1 ? "" : concat(" (", times, " times so far)")));
    }
  } else if (rank.link != Link::kAwaited) {
    return;
  }
  peer.rank = name.rank;
  rank.name = name;
  const auto beats = own_beat();  // so that this rank can speak for rank 0 from now on
  peer.link.send(WatchFrame::kBeat, &beats, sizeof(beats));
}

void WatchHub::hear(Peer& peer, const WatchLink::Frame& frame) {
  const std::string& payload = frame.payload;
  if (peer.rank < 0) {
    const bool is_hello = frame.kind == WatchFrame::kHello && payload.size() == token_.size() + sizeof(RankName);
    if (is_hello && std::memcmp(payload.data(), token_.data(), token_.size()) == 0) {
      welcome(peer, payload);
    } else {
      peer.since = -kHelloSeconds;  // a stranger: goes at once
    }
    return;
  }
  RankView& rank = ranks_[static_cast<size_t>(peer.rank)];
  if (frame.kind == WatchFrame::kBeat && payload.size() == sizeof(SlotBeat) * kProgressSlots) {
    std::array<SlotBeat, kProgressSlots> beats;
    std::memcpy(beats.data(), payload.data(), sizeof(beats));
    rank.hear(beats, now_);
  } else if (frame.kind == WatchFrame::kError && payload.size() > sizeof(int32_t) + sizeof(Progress) && rank.error.empty()) {
    int32_t code = 0;
    std::memcpy(&code, payload.data(), sizeof(code));
    std::memcpy(&rank.failed_at, payload.data() + sizeof(code), sizeof(Progress));
    rank.failed_at.end_texts();
    rank.exit_code = code;
    rank.error = payload.substr(sizeof(code) + sizeof(Progress));
    rank.error_at = now_;
    urgent_ = true;
  } else if (frame.kind == WatchFrame::kGoodbye) {
    rank.link = Link::kGoodbye;
    rank.heard_at = now_;
  } else if (frame.kind == WatchFrame::kWritten) {
    peer.has_written = true;
  }
}

void WatchHub::tell_about_missing_ranks() {
  if (told_missing_ || now_ - begun_ < std::max(kPatience * terms_.limit, 30.0)) return;
  told_missing_ = true;
  std::vector<std::string> missing;
  for (const RankView& rank : ranks_) {
    if (rank.link == Link::kAwaited && missing.size() < 8) missing.push_back(std::to_string(rank.name.rank));
  }
  if (missing.empty()) return;
  log_.warning(
      concat("watchdog: no connection from rank ", join(missing, ", "), missing.size() == 8 ? ", ..." : "", " to port ", listener_.port(),
             " of ", terms_.self.host.data(),
             ": dead or hung ranks may go unnoticed. Does a firewall forbid TCP between the nodes? run.hang_limit=0 turns it off"));
}

void WatchHub::end(const Verdict& verdict) {
  const RankView& first = ranks_[static_cast<size_t>(verdict.culprits.front())];
  const bool by_error = verdict.kind == Verdict::Kind::kError || verdict.kind == Verdict::Kind::kErrorOfAll;
  const int code = by_error ? first.exit_code : static_cast<int>(ExitCode::kInternal);
  const std::string text = explain(verdict, ranks_, terms_.limit, now_);
  end_process_in(6.0, code);
  if (verdict.kind == Verdict::Kind::kErrorOfAll) {
    for (Peer& peer : peers_) peer.link.send(WatchFrame::kGoodbye);
    say(log_, text);
    end_job(code);
  }
  say(log_, text + terms_.advice());
  std::error_code ignored;
  if (*terms_.has_folder) std::filesystem::remove_all(terms_.folder, ignored);  // of a run before
  for (Peer& peer : peers_) {
    if (peer.rank >= 0) peer.link.send(WatchFrame::kAlarm);
  }
  write_own_stacks(terms_);
  const auto may_write = [&](const Peer& peer) {
    return peer.rank >= 0 && !peer.has_written && now_ - ranks_[static_cast<size_t>(peer.rank)].heard_at < terms_.limit;
  };
  const double deadline = watch_clock() + kStackSeconds;
  while (watch_clock() < deadline && std::any_of(peers_.begin(), peers_.end(), may_write)) {
    ::poll(nullptr, 0, 10);
    take_in();
  }
  for (const RankView& rank : ranks_) {
    if (rank.link != Link::kAwaited && !std::filesystem::exists(stack_file(terms_, rank.name.rank), ignored)) write_record(terms_, rank);
  }
  end_job(code);
}

}  // namespace pimoe
