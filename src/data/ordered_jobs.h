#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <future>
#include <utility>

namespace pimoe {

/// Does jobs on several threads and hands their results on in the order of the jobs. At most as many jobs as threads are in memory.
template <class Job, class Result>
class OrderedJobs {
 public:
  OrderedJobs(size_t threads, std::function<Result(const Job&)> work, std::function<void(Result)> take)
      : threads_(threads), work_(std::move(work)), take_(std::move(take)) {}

  void add(Job job) {
    if (running_.size() == threads_) take_oldest();
    running_.push_back(std::async(std::launch::async, [this, given = std::move(job)] { return work_(given); }));
  }

  void finish() {
    while (!running_.empty()) take_oldest();
  }

 private:
  void take_oldest() {
    Result result = running_.front().get();
    running_.pop_front();
    take_(std::move(result));
  }

  size_t threads_;
  std::function<Result(const Job&)> work_;
  std::function<void(Result)> take_;
  std::deque<std::future<Result>> running_;
};

}  // namespace pimoe
