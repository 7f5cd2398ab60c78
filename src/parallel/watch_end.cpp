#include "parallel/watch_end.h"

#include "base/text.h"
#include "parallel/mpi_session.h"
#include "parallel/stack_dump.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <fstream>
#include <memory>
#include <thread>

namespace pimoe {
namespace {

constexpr double kFileStagger = 0.1;  // seconds from one rank's turn to the next one's, where a file decides who speaks
constexpr double kMostFileStagger = 0.5;
constexpr double kStagger = 2.0;  // and where time alone does: whoever speaks ends the others in less
constexpr double kMostStagger = 6.0;

/// Processor time of a thread of this process; 0 where there is none.
double cpu_seconds_of(int thread) {
  // What pthread_getcpuclockid makes of a thread's number; that function needs its pthread_t.
  const clockid_t clock = static_cast<clockid_t>(~static_cast<unsigned int>(thread) << 3U) | 6;
  timespec time{};
  if (thread <= 0 || ::clock_gettime(clock, &time) != 0) return 0.0;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::string records_text(const RankName& name, const std::array<SlotBeat, kProgressSlots>& beats) {
  const auto& writer = beats[static_cast<size_t>(ProgressSlot::kWriter)].progress;
  return concat(describe(name), "\nlast record: ", describe(beats[0].progress),
                writer.phase[0] == 0 ? "" : concat("\nbeside it:   ", describe(writer)));
}

/// Of this job, and no other before it: RUN/hang/verdict-PROCESS-START.txt, both of rank 0.
std::filesystem::path verdict_file(const WatchTerms& terms) {
  const RankName rank_0 = terms.names.empty() ? RankName() : terms.names.front();
  return terms.folder / concat("verdict-", rank_0.pid, "-", rank_0.started, ".txt");
}

}  // namespace

double WatchTerms::interval() const { return std::min(1.0, limit / 10.0); }

std::string WatchTerms::advice() const {
  return concat(*has_folder ? concat(". Stacks and last records of all ranks: ", folder.string(), "/rank-*.txt") : "",
                ". The job ends here; the same command, with checkpoint.resume=auto, goes on from the last checkpoint");
}

void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

double watch_clock() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::array<SlotBeat, kProgressSlots> own_beat() {
  std::array<SlotBeat, kProgressSlots> beats;
  for (size_t slot = 0; slot < kProgressSlots; ++slot) {
    beats[slot].progress = read_progress(static_cast<ProgressSlot>(slot));
    beats[slot].cpu_seconds = cpu_seconds_of(beats[slot].progress.thread);
  }
  return beats;
}

std::filesystem::path stack_file(const WatchTerms& terms, int rank) { return terms.folder / concat("rank-", padded(rank, 4), ".txt"); }

void write_own_stacks(const WatchTerms& terms) {
  if (!*terms.has_folder) return;
  std::error_code ignored;
  std::filesystem::create_directories(terms.folder, ignored);
  write_stacks(stack_file(terms, terms.self.rank), records_text(terms.self, own_beat()));
}

void write_record(const WatchTerms& terms, const RankView& rank) {
  if (!*terms.has_folder) return;
  std::error_code ignored;
  std::filesystem::create_directories(terms.folder, ignored);
  const std::array<SlotBeat, kProgressSlots> beats = {rank.slots[0].last, rank.slots[1].last};
  std::ofstream(stack_file(terms, rank.name.rank))
      << records_text(rank.name, beats) << "\nno stacks: the process is gone, or does not run\n";
}

bool takes_the_word(const WatchTerms& terms, const std::string& text) {
  sleep_for(std::min(kMostFileStagger, kFileStagger * (terms.self.rank - 1)));  // as a rule the lowest speaks
  const auto is_ours = std::make_shared<std::atomic<int>>(-1);                  // -1: not known
  if (*terms.has_folder) {
    const std::filesystem::path file = verdict_file(terms);
    std::thread([is_ours, file, text] {
      std::error_code ignored;
      std::filesystem::create_directories(file.parent_path(), ignored);
      const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (descriptor < 0) {
        if (errno == EEXIST) is_ours->store(0);
        return;
      }
      is_ours->store(1);
      const std::string line = text + "\n";
      static_cast<void>(!::write(descriptor, line.data(), line.size()));  // what counts is that the file is there
      ::close(descriptor);
    }).detach();
    for (int wait = 0; wait < 50 && *is_ours < 0; ++wait) sleep_for(0.01);
  }
  if (*is_ours >= 0) return *is_ours == 1;
  const auto may_speak = [&](const RankName& name) {
    const Presence process = presence_of(name, terms.self);
    return name.rank > 0 && name.rank < terms.self.rank && process != Presence::kGone && process != Presence::kStopped;
  };
  sleep_for(std::min(kMostStagger, kStagger * static_cast<double>(std::count_if(terms.names.begin(), terms.names.end(), may_speak))));
  return true;
}

void say(Logger& log, const std::string& text) {
  const auto said = std::make_shared<std::atomic<bool>>(false);
  std::thread([said, text, &log] {
    log.error(text);
    said->store(true);
  }).detach();  // the process ends soon, with it or without
  for (int wait = 0; wait < 100 && !said->load(); ++wait) sleep_for(0.01);
  if (said->load()) return;
  const std::string line = concat("error: ", text, "\n");
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

void end_process_in(double seconds, int exit_code) {
  std::thread([seconds, exit_code] {
    sleep_for(seconds);
    ::_exit(exit_code);
  }).detach();
}

void end_job(int exit_code) {
  end_process_in(1.0, exit_code);  // MPI may be held by a thread that hangs
  MpiSession::abort(exit_code);
}

}  // namespace pimoe
