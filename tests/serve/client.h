#pragma once

/// A client of the server in plain sockets, which can also misbehave.

#include "base/text.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace pimoe {

class Client {
 public:
  /// @param from  the n-th of this machine's addresses; each has 28,000 ports, and one that was closed stays taken for a minute
  explicit Client(int port, int receive_buffer = 0, uint32_t from = 0) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (receive_buffer > 0) ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    if (from > 0) {
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + from);
      ::bind(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    }
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    is_connected_ = ::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    if (!is_connected_ && errno == EINTR) is_connected_ = comes_to_connect();  // libFuzzer's clock
  }
  ~Client() { leave(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  Client(Client&& other) noexcept : socket_(std::exchange(other.socket_, -1)), is_connected_(other.is_connected_) {}

  bool is_connected() const { return is_connected_; }
  void leave() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }

  void finish_sending() const { ::shutdown(socket_, SHUT_WR); }
  /// @returns false where the server takes no more
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  bool post(const std::string& path, const std::string& body, const std::string& headers = "") const {
    return send(concat("POST ", path, " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n", headers,
                       "Content-Length: ", body.size(), "\r\n\r\n", body));
  }
  bool get(const std::string& path, const std::string& headers = "") const {
    return send(concat("GET ", path, " HTTP/1.1\r\nHost: localhost\r\n", headers, "\r\n"));
  }

  /// Reads on until `has_all` of what came says so, or the server closes, or nothing comes for ten seconds. @returns all of it
  template <class HasAll>
  std::string read(HasAll has_all) {
    while (!has_all(received_)) {
      pollfd waiting{socket_, POLLIN, 0};
      const int ready = ::poll(&waiting, 1, 10'000);
      if (ready < 0 && errno == EINTR) continue;  // libFuzzer's clock
      if (ready <= 0) break;
      std::array<char, 65536> bytes{};
      const ssize_t got = ::recv(socket_, bytes.data(), bytes.size(), 0);
      if (got <= 0) {
        is_closed_ = true;
        break;
      }
      received_.append(bytes.data(), static_cast<size_t>(got));
    }
    return std::exchange(received_, "");
  }
  std::string read_to_end() {
    return read([](const std::string&) { return false; });
  }
  /// @returns whether the server has closed, after what has been read
  bool is_closed() const { return is_closed_; }

  struct Response {
    int status = 0;
    std::string head;
    std::string body;  ///< of chunks too, put together
  };
  /// One answer, of a connection that stays open.
  Response response() {
    std::string all = read([](const std::string& so_far) { return is_whole(so_far); });
    Response found;
    const size_t end = all.find("\r\n\r\n");
    if (end == std::string::npos || !all.starts_with("HTTP/1.1 ")) return found;
    found.status = std::stoi(all.substr(9, 3));
    found.head = all.substr(0, end + 2);
    found.body = all.substr(end + 4);
    if (found.head.find("chunked") != std::string::npos) found.body = joined(found.body);
    return found;
  }

 private:
  bool comes_to_connect() const {
    pollfd waiting{socket_, POLLOUT, 0};
    while (::poll(&waiting, 1, 10'000) < 0 && errno == EINTR) {
    }
    int error = 0;
    socklen_t size = sizeof error;
    return ::getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0 && (waiting.revents & POLLOUT) != 0;
  }
  static bool is_whole(const std::string& all) {
    const size_t end = all.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    const std::string head = all.substr(0, end + 2);
    if (head.find("Transfer-Encoding: chunked") != std::string::npos) return all.ends_with("\r\n0\r\n\r\n");
    const size_t length = head.find("Content-Length: ");
    return length != std::string::npos && all.size() - end - 4 >= std::stoul(head.substr(length + 16));
  }
  static std::string joined(const std::string& chunks) {
    std::string body;
    for (size_t at = 0; at < chunks.size();) {
      const size_t line = chunks.find("\r\n", at);
      if (line == std::string::npos) break;
      const size_t size = std::stoul(chunks.substr(at, line - at), nullptr, 16);
      body += chunks.substr(line + 2, size);
      at = line + 2 + size + 2;
    }
    return body;
  }

  int socket_;
  bool is_connected_ = false;
  bool is_closed_ = false;
  std::string received_;
};

}  // namespace pimoe
