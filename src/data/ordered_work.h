#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace pimoe {

/// Work that several threads do at once and one takes back in the order in which it gave it. Used by one thread; the work must be safe beside itself.
template <class Result>
class OrderedWork {
 public:
  explicit OrderedWork(size_t threads) {
    for (size_t i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  /// What has begun is done; what has not is not.
  ~OrderedWork() {
    {
      const std::lock_guard hold(mutex_);
      is_over_ = true;
    }
    changed_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }
  OrderedWork(const OrderedWork&) = delete;
  OrderedWork& operator=(const OrderedWork&) = delete;

  void add(std::function<Result()> piece) {
    std::packaged_task<Result()> task(std::move(piece));
    results_.push_back(task.get_future());
    {
      const std::lock_guard hold(mutex_);
      waiting_.push_back(std::move(task));
    }
    changed_.notify_one();
  }

  size_t size() const { return results_.size(); }  ///< given, and not taken back
  bool oldest_is_done() const {
    return !results_.empty() && results_.front().wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }
  /// Waits for it. REQUIRES size() > 0. @throws what the work threw
  Result take_oldest() {
    std::future<Result> oldest = std::move(results_.front());
    results_.pop_front();
    return oldest.get();
  }

 private:
  void work() {
    while (true) {
      std::packaged_task<Result()> task;
      {
        std::unique_lock hold(mutex_);
        changed_.wait(hold, [this] { return is_over_ || !waiting_.empty(); });
        if (is_over_) return;
        task = std::move(waiting_.front());
        waiting_.pop_front();
      }
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<Result()>> waiting_;  ///< guarded by mutex_
  bool is_over_ = false;                              ///< likewise
  std::deque<std::future<Result>> results_;
  std::vector<std::thread> workers_;
};

}  // namespace pimoe
