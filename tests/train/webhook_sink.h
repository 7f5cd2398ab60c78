#pragma once

#include "base/text.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace pimoe {

/// A sink on a port of this machine: takes POSTs, and answers what it is told to.
class WebhookSink {
 public:
  WebhookSink() : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ::listen(listener_, 16);
    socklen_t size = sizeof address;
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~WebhookSink() {
    is_over_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  std::string url() const { return concat("http://127.0.0.1:", port_, "/hook"); }
  /// What each post is answered from now on; kNothing: it waits
  void answer(int status) { status_ = status; }
  static constexpr int kNothing = 0;
  std::vector<std::string> bodies() {
    const std::lock_guard lock(mutex_);
    return bodies_;
  }
  /// All posts so far, whatever they were answered.
  int posts() const { return posts_; }
  bool comes_to(size_t count) {
    for (int tries = 0; tries < 1000 && bodies().size() < count; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return bodies().size() == count;
  }

 private:
  void serve() {
    for (int connection; (connection = ::accept(listener_, nullptr, nullptr)) >= 0; ::close(connection)) {
      std::string text;
      char block[4096];
      size_t needed = std::string::npos;
      while (text.size() < needed) {
        const ssize_t got = ::recv(connection, block, sizeof block, 0);
        if (got <= 0) break;
        text.append(block, static_cast<size_t>(got));
        const size_t head = text.find("\r\n\r\n");
        const size_t length = text.find("Content-Length: ");
        if (head != std::string::npos && length != std::string::npos) needed = head + 4 + std::stoul(text.substr(length + 16));
      }
      ++posts_;
      while (status_ == kNothing && !is_over_) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      if (status_ == 200) {
        const std::lock_guard lock(mutex_);
        bodies_.push_back(text.substr(text.find("\r\n\r\n") + 4));
      }
      const std::string reply = concat("HTTP/1.1 ", status_.load(), " X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      ::send(connection, reply.data(), reply.size(), MSG_NOSIGNAL);
    }
  }

  int listener_;
  int port_ = 0;
  std::atomic<int> status_ = 200;
  std::atomic<int> posts_ = 0;
  std::atomic<bool> is_over_ = false;
  std::mutex mutex_;
  std::vector<std::string> bodies_;
  std::thread thread_;
};

}  // namespace pimoe
