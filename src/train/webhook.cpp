#include "train/webhook.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "parallel/quiet_thread.h"

#ifdef PIMOE_WITH_CURL
#include <curl/curl.h>
#endif

#include <algorithm>
#include <chrono>
#include <memory>

namespace pimoe {
namespace {

constexpr double kLongestPause = 60.0;    // seconds
constexpr long kPostSeconds = 10;         // of one attempt
constexpr uint64_t kMostBytes = 1 << 24;  // of the file

#ifdef PIMOE_WITH_CURL

size_t ignore_answer(char*, size_t size, size_t count, void*) { return size * count; }

/// @returns "" or why the message did not arrive
std::string post(const std::string& url, const std::string& message) {
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> handle(curl_easy_init(), curl_easy_cleanup);
  if (!handle) return "libcurl does not start";
  const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(curl_slist_append(nullptr, "Content-Type: application/json"),
                                                                            curl_slist_free_all);
  CURL* const curl = handle.get();
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_POSTFIELDS, message.data());
  curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, static_cast<long>(message.size()));
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, ignore_answer);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT, kPostSeconds);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, kPostSeconds / 2);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);  // its time-outs must not use a signal of the process
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "pimoe");
  const CURLcode code = curl_easy_perform(curl);
  if (code != CURLE_OK) return curl_easy_strerror(code);
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  return status >= 200 && status < 300 ? "" : concat("the answer is HTTP ", status);
}

#else

std::string post(const std::string&, const std::string&) { return "this program was built without libcurl"; }

#endif

}  // namespace

std::string webhook_trouble(const std::string& url) {
#ifdef PIMOE_WITH_CURL
  const size_t scheme = url.find("://");
  const std::string name = scheme == std::string::npos ? "" : url.substr(0, scheme);
  if ((name != "http" && name != "https") || url.size() == scheme + 3 || url.find_first_of(" \t\r\n") != std::string::npos) {
    return concat("('", url, "') must be a URL of http:// or https://");
  }
  return "";
#else
  return concat("('", url, "') needs libcurl, which this program was built without: install libcurl4-openssl-dev and build again");
#endif
}

Webhook::Webhook(std::string url, std::filesystem::path unsent, Logger& log) : url_(std::move(url)), file_(std::move(unsent)), log_(log) {
  try {
    if (is_there(file_)) {
      for (const std::string& line : split(read_regular_file(file_, kMostBytes), '\n')) {
        if (!line.empty()) unsent_.push_back(line);
      }
    }
  } catch (const IoError& error) {  // alerts of an earlier process are no reason to end this one
    log_.warning(concat(error.what(), ": alerts in it are not sent"));
  }
  thread_ = quiet_thread([this] { work(); });
}

Webhook::~Webhook() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (!unsent_.empty()) {
    log_.warning(concat(counted(static_cast<int64_t>(unsent_.size()), "alert"), " could not be sent to ", url_, ": kept in ",
                        file_.string(), ", and sent by the next start"));
  }
}

void Webhook::send(const std::string& message) {
  {
    const std::lock_guard lock(mutex_);
    unsent_.push_back(message);
    keep_unsent();
  }
  changed_.notify_all();
}

void Webhook::keep_unsent() {
  std::string content;
  for (const std::string& message : unsent_) content += message + "\n";
  try {
    if (!unsent_.empty()) {
      replace_file(file_, content);
    } else if (is_there(file_)) {
      std::filesystem::remove(file_);
    }
    is_file_told_ = false;
  } catch (const std::exception& error) {  // a full disk: the messages are in memory still
    if (!std::exchange(is_file_told_, true)) log_.warning(concat(error.what(), ": alerts that are not sent before the end are lost"));
  }
}

void Webhook::work() {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](double count) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count)); };
  std::unique_lock lock(mutex_);
  double pause = 1.0;
  Clock::time_point end = Clock::time_point::max();
  for (;;) {
    changed_.wait(lock, [this] { return is_over_ || !unsent_.empty(); });
    if (is_over_ && end == Clock::time_point::max()) end = Clock::now() + seconds(kLastSeconds);
    if (unsent_.empty() || Clock::now() >= end) return;
    const std::string message = unsent_.front();
    lock.unlock();
    const std::string trouble = post(url_, message);
    if (!trouble.empty() && !std::exchange(is_told_, true)) {
      log_.warning(concat("alerts do not reach ", url_, ": ", trouble, ". They are kept, and sent again"));
    }
    if (trouble.empty() && std::exchange(is_told_, false)) log_.info(concat("alerts reach ", url_, " again"));
    lock.lock();
    if (trouble.empty()) {
      unsent_.pop_front();
      keep_unsent();
      pause = 1.0;
      continue;
    }
    if (is_over_) {
      changed_.wait_for(lock, seconds(0.5), [] { return false; });
    } else {
      changed_.wait_for(lock, seconds(pause), [this] { return is_over_; });
      pause = std::min(2 * pause, kLongestPause);
    }
  }
}

}  // namespace pimoe
