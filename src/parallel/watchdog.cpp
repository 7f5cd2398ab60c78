#include "parallel/watchdog.h"

#include "base/errors.h"
#include "base/host.h"
#include "base/text.h"
#include "parallel/stack_dump.h"
#include "parallel/watch_client.h"
#include "parallel/watch_hub.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace pimoe {
namespace {

/// The token in its 16 bytes, then "port|host|process|address|address...".
std::string text_of(const WatchHub& hub) {
  std::vector<std::string> parts = {std::to_string(hub.port()), host_name(), std::to_string(::getpid())};
  for (const std::string& address : own_addresses()) parts.push_back(address);
  return std::string(reinterpret_cast<const char*>(hub.token().data()), hub.token().size()) + join(parts, "|");
}

WatchAddress address_of(const std::string& text) {
  WatchAddress address;
  std::memcpy(address.token.data(), text.data(), address.token.size());
  std::vector<std::string> parts = split(text.substr(address.token.size()), '|');
  address.port = std::stoi(parts[0]);
  address.host = parts[1];
  address.pid = std::stoi(parts[2]);
  address.addresses.assign(parts.begin() + 3, parts.end());
  return address;
}

}  // namespace

Watchdog::Watchdog(const HostCommunicator& world, double limit, std::filesystem::path folder, Logger& log) {
  WatchTerms terms{.self = {}, .ranks = world.size(), .limit = limit, .folder = std::move(folder)};
  terms.self.rank = world.rank();
  terms.self.pid = ::getpid();
  std::snprintf(terms.self.host.data(), terms.self.host.size(), "%s", host_name().c_str());
  prepare_stack_dump();
  std::string where;
  if (world.rank() == 0) {
    try {
      hub_ = std::make_unique<WatchHub>(terms, log);
      where = text_of(*hub_);
    } catch (const CommError& error) {
      log.warning(concat("watchdog: ", error.what(), ": dead or hung ranks go unnoticed"));
    }
  }
  where = world.broadcast_text(where, 0);
  if (where.empty()) return;
  if (hub_) {
    hub_->begin();
  } else {
    client_ = std::make_unique<WatchClient>(terms, address_of(where), log);
  }
}

Watchdog::~Watchdog() = default;

bool Watchdog::leave(const std::string& error, int exit_code) {
  const std::string said = error.empty() ? "an exception without a message" : error;
  if (hub_) hub_->leave(said, exit_code);
  return hub_ != nullptr || (client_ && client_->leave(said, exit_code));
}

}  // namespace pimoe
