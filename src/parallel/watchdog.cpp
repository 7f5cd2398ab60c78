#include "parallel/watchdog.h"

#include "base/errors.h"
#include "base/text.h"
#include "parallel/stack_dump.h"
#include "parallel/watch_client.h"
#include "parallel/watch_hub.h"

#include <cstring>
#include <vector>

namespace pimoe {
namespace {

/// The token in its 16 bytes, then "port|address|address...".
std::string text_of(const WatchHub& hub) {
  std::vector<std::string> parts = {std::to_string(hub.port())};
  for (const std::string& address : own_addresses()) parts.push_back(address);
  return std::string(reinterpret_cast<const char*>(hub.token().data()), hub.token().size()) + join(parts, "|");
}

WatchAddress address_of(const std::string& text) {
  WatchAddress address;
  std::memcpy(address.token.data(), text.data(), address.token.size());
  std::vector<std::string> parts = split(text.substr(address.token.size()), '|');
  address.port = std::stoi(parts[0]);
  address.addresses.assign(parts.begin() + 1, parts.end());
  return address;
}

/// Collective. @returns every rank's name, in order
std::vector<RankName> all_names(const RankName& own, const HostCommunicator& world) {
  std::vector<RankName> names;
  for (const std::string& bytes : world.all_gather_text(std::string(reinterpret_cast<const char*>(&own), sizeof(own)))) {
    std::memcpy(&names.emplace_back(), bytes.data(), sizeof(own));
  }
  return names;
}

}  // namespace

Watchdog::Watchdog(const HostCommunicator& world, double limit, std::filesystem::path folder, Logger& log, Folder whose)
    : has_folder_(std::make_shared<std::atomic<bool>>(whose == Folder::kOwn)) {
  const RankName self = own_name(world.rank());
  const WatchTerms terms{.self = self,
                         .ranks = world.size(),
                         .limit = limit,
                         .folder = std::move(folder),
                         .names = all_names(self, world),
                         .has_folder = has_folder_};
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
