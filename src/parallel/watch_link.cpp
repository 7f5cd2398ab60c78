#include "parallel/watch_link.h"

#include "base/errors.h"
#include "base/text.h"

#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace pimoe {
namespace {

constexpr uint32_t kMagic = 0x57614d50;
constexpr size_t kMostUnsent = 64 << 10;

struct Header {
  uint32_t magic = kMagic;
  uint16_t kind = 0;
  uint16_t bytes = 0;
};

void make_prompt(int descriptor) {
  ::fcntl(descriptor, F_SETFL, ::fcntl(descriptor, F_GETFL) | O_NONBLOCK);
  const int on = 1;
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

std::string reason() { return std::generic_category().message(errno); }

int listen_at(int family) {
  const int descriptor = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (descriptor < 0) return -1;
  sockaddr_storage address{};
  address.ss_family = static_cast<sa_family_t>(family);  // the rest is zero: any address, any port
  if (family == AF_INET6) {
    const int off = 0;
    ::setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  }
  const socklen_t bytes = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  if (::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), bytes) == 0 && ::listen(descriptor, SOMAXCONN) == 0)
    return descriptor;
  const int code = errno;
  ::close(descriptor);
  errno = code;
  return -1;
}

}  // namespace

WatchLink::WatchLink(int descriptor) : descriptor_(descriptor) { make_prompt(descriptor_); }

WatchLink::~WatchLink() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

WatchLink::WatchLink(WatchLink&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      closed_(other.closed_),
      received_(std::move(other.received_)),
      unsent_(std::move(other.unsent_)) {}

WatchLink& WatchLink::operator=(WatchLink&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(closed_, other.closed_);
  std::swap(received_, other.received_);
  std::swap(unsent_, other.unsent_);
  return *this;
}

void WatchLink::send(WatchFrame kind, const void* payload, size_t bytes) {
  if (closed_ || unsent_.size() > kMostUnsent) return;
  bytes = std::min(bytes, kMostPayload);
  const Header header{kMagic, static_cast<uint16_t>(kind), static_cast<uint16_t>(bytes)};
  unsent_.append(reinterpret_cast<const char*>(&header), sizeof(header));
  if (bytes > 0) unsent_.append(static_cast<const char*>(payload), bytes);
  flush();
}

void WatchLink::flush() {
  while (!unsent_.empty()) {
    const ssize_t sent = ::send(descriptor_, unsent_.data(), unsent_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      unsent_.erase(0, static_cast<size_t>(sent));
    } else if (errno != EINTR) {
      return;  // a broken connection shows when it is read, after what came over it before
    }
  }
}

void WatchLink::receive() {
  std::array<char, 8192> buffer;
  while (!closed_ && received_.size() < 4 * kMostPayload) {
    const ssize_t got = ::recv(descriptor_, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got > 0) {
      received_.append(buffer.data(), static_cast<size_t>(got));
    } else if (got == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)) {
      closed_ = true;
    } else if (errno != EINTR) {
      return;
    }
  }
}

std::optional<WatchLink::Frame> WatchLink::next() {
  Header header;
  if (received_.size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, received_.data(), sizeof(header));
  if (header.magic != kMagic || header.bytes > kMostPayload) {
    closed_ = true;
    received_.clear();
    return std::nullopt;
  }
  if (received_.size() < sizeof(header) + header.bytes) return std::nullopt;
  Frame frame{static_cast<WatchFrame>(header.kind), received_.substr(sizeof(header), header.bytes)};
  received_.erase(0, sizeof(header) + header.bytes);
  return frame;
}

WatchListener::WatchListener() {
  descriptor_ = listen_at(AF_INET6);  // takes IPv4 too
  if (descriptor_ < 0) descriptor_ = listen_at(AF_INET);
  if (descriptor_ < 0) throw CommError(concat("cannot listen for TCP connections: ", reason()));
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  ::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&address), &bytes);
  port_ = ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                              : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

WatchListener::~WatchListener() { ::close(descriptor_); }

int WatchListener::accept() const { return ::accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); }

std::vector<std::string> own_addresses() {
  std::vector<std::string> found;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return found;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0 || (one->ifa_flags & IFF_LOOPBACK) != 0) continue;
    const int family = one->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(one->ifa_addr)->sin6_addr)) continue;
    char text[NI_MAXHOST] = {};
    const socklen_t bytes = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    if (::getnameinfo(one->ifa_addr, bytes, text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0) found.emplace_back(text);
  }
  ::freeifaddrs(all);
  return found;
}

int connect_to(const std::string& address, int port, double seconds) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return -1;
  int descriptor = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  bool connected = descriptor >= 0 && ::connect(descriptor, found->ai_addr, found->ai_addrlen) == 0;
  if (descriptor >= 0 && !connected && errno == EINPROGRESS) {
    pollfd waiting{descriptor, POLLOUT, 0};
    int error = 1;
    socklen_t bytes = sizeof(error);
    connected = ::poll(&waiting, 1, static_cast<int>(seconds * 1000)) == 1 &&
                ::getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &bytes) == 0 && error == 0;
  }
  ::freeaddrinfo(found);
  if (!connected && descriptor >= 0) ::close(std::exchange(descriptor, -1));
  return descriptor;
}

WatchToken random_token() {
  WatchToken token;
  if (::getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) throw CommError(concat("getrandom: ", reason()));
  return token;
}

}  // namespace pimoe
