#include "train/webhook.h"

#include "base/text.h"
#include "parallel/quiet_thread.h"

#ifdef PIMOE_WITH_CURL
#include <curl/curl.h>
#endif

#include <algorithm>
#include <memory>
#include <utility>

namespace pimoe {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kFirstPause = 1.0;  // seconds between tries
constexpr double kLongestPause = 60.0;
constexpr double kLastPause = 0.5;     // when the process is to end
constexpr double kPostSeconds = 10.0;  // of one attempt

Clock::duration seconds(double count) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count)); }

/// What became of a post.
struct Answer {
  enum class Kind { kTaken, kRefused, kNone };
  Kind kind = Kind::kNone;
  std::string trouble;
};

#ifdef PIMOE_WITH_CURL

size_t ignore_answer(char*, size_t size, size_t count, void*) { return size * count; }

/// Called by libcurl at least about once a second. @returns 1: leave
int stop_past_end(void* end, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return Clock::now() >= static_cast<const std::atomic<Clock::time_point>*>(end)->load() ? 1 : 0;
}

Answer answer_of_status(long status) {
  if (status >= 200 && status < 300) return {Answer::Kind::kTaken, ""};
  const bool may_pass = status < 400 || status >= 500 || status == 408 || status == 429;  // request timeout, too many requests
  return {may_pass ? Answer::Kind::kNone : Answer::Kind::kRefused, concat("the answer is HTTP ", status)};
}

/// @param end  may come nearer while the post is under way
Answer post(const std::string& url, const std::string& message, const std::atomic<Clock::time_point>& end) {
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> handle(curl_easy_init(), curl_easy_cleanup);
  if (!handle) return {Answer::Kind::kNone, "libcurl does not start"};
  const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(curl_slist_append(nullptr, "Content-Type: application/json"),
                                                                            curl_slist_free_all);
  const Clock::time_point now = Clock::now();
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(std::min(end.load(), now + seconds(kPostSeconds)) - now);
  CURL* const curl = handle.get();
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_POSTFIELDS, message.data());
  curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, static_cast<long>(message.size()));
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, ignore_answer);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, std::max<long>(1, left.count()));  // 0 would be none
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(500 * kPostSeconds));
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, stop_past_end);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &end);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);  // its time-outs must not use a signal of the process
#if LIBCURL_VERSION_NUM >= 0x075700
  curl_easy_setopt(curl, CURLOPT_QUICK_EXIT, 1L);  // no waiting for a name that no server tells
#endif
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "pimoe");
  const CURLcode code = curl_easy_perform(curl);
  if (code == CURLE_ABORTED_BY_CALLBACK) return {Answer::Kind::kNone, "no answer before the process had to end"};
  if (code != CURLE_OK) return {Answer::Kind::kNone, curl_easy_strerror(code)};
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  return answer_of_status(status);
}

#else

Answer post(const std::string&, const std::string&, const std::atomic<Clock::time_point>&) {
  return {Answer::Kind::kNone, "this program was built without libcurl"};
}

#endif

}  // namespace

std::string webhook_trouble(const std::string& url) {
#ifdef PIMOE_WITH_CURL
  const size_t scheme = url.find("://");
  const std::string name = scheme == std::string::npos ? "" : url.substr(0, scheme);
  if ((name != "http" && name != "https") || url.size() == scheme + 3 || url.find_first_of(" \t\r\n") != std::string::npos) {
    return concat("('", webhook_place(url), "', of which the rest is not shown) must be a URL of http:// or https://, without blanks");
  }
  return "";
#else
  return concat("('", webhook_place(url),
                "') needs libcurl, which this program was built without: install libcurl4-openssl-dev and build again");
#endif
}

std::string webhook_place(const std::string& url) {
  const size_t scheme = url.find("://");
  const size_t begin = scheme == std::string::npos ? 0 : scheme + 3;
  std::string host = url.substr(begin, url.find_first_of("/?#\\ \t\r\n", begin) - begin);
  if (const size_t user = host.rfind('@'); user != std::string::npos) host.erase(0, user + 1);
  return url.substr(0, begin) + host;
}

Webhook::Webhook(std::string url, std::filesystem::path unsent, Logger& log, double last_seconds)
    : url_(std::move(url)), place_(webhook_place(url_)), log_(log), last_seconds_(last_seconds), waiting_(std::move(unsent), log) {
  thread_ = quiet_thread([this] { work(); });
}

Webhook::~Webhook() {
  {
    const std::lock_guard lock(mutex_);
    end_ = Clock::now() + seconds(last_seconds_);
  }
  changed_.notify_all();
  thread_.join();
  if (!waiting_.empty()) {
    log_.warning(concat(counted(static_cast<int64_t>(waiting_.size()), "alert"), " could not be sent to ", place_, ": kept in ",
                        waiting_.file().string(), ", and sent by the next start"));
  }
}

void Webhook::send(const std::string& message) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.add(message);
  }
  changed_.notify_all();
}

void Webhook::work() {
  std::unique_lock lock(mutex_);
  double pause = kFirstPause;
  bool is_told = false;  // that nobody answers
  for (;;) {
    changed_.wait(lock, [this] { return is_over() || !waiting_.empty(); });
    if (waiting_.empty() || Clock::now() >= end_.load()) return;
    const std::string message = waiting_.first();
    const int64_t gone = waiting_.gone();
    lock.unlock();
    const Answer answer = post(url_, message, end_);
    if (answer.kind == Answer::Kind::kNone && !std::exchange(is_told, true)) {
      log_.warning(concat("alerts do not reach ", place_, ": ", answer.trouble, ". They are kept, and sent again"));
    }
    if (answer.kind == Answer::Kind::kTaken && std::exchange(is_told, false)) log_.info(concat("alerts reach ", place_, " again"));
    if (answer.kind == Answer::Kind::kRefused) {
      log_.warning(concat(place_, " refuses an alert, which is not sent again: ", answer.trouble, ": ", message));
    }
    lock.lock();
    if (answer.kind != Answer::Kind::kNone) {
      if (waiting_.gone() == gone) waiting_.remove_first();  // it may have been dropped meanwhile
      pause = kFirstPause;
    } else if (is_over()) {
      changed_.wait_until(lock, std::min(Clock::now() + seconds(kLastPause), end_.load()), [] { return false; });
    } else {
      changed_.wait_for(lock, seconds(pause), [this] { return is_over(); });
      pause = std::min(2 * pause, kLongestPause);
    }
  }
}

}  // namespace pimoe
