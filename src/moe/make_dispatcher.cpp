#include "moe/make_dispatcher.h"

#include "base/errors.h"
#include "base/text.h"
#include "moe/direct_dispatcher.h"

namespace pimoe {

std::unique_ptr<Dispatcher> make_dispatcher(const ExpertPlacement& placement, const Communicator& group, const MoeConfig& config,
                                            const Cargo& cargo) {
  const MoeExchange exchange = config.exchange_between();
  const bool asked = exchange == MoeExchange::kDirect && !cargo.device.is_meta();  // a planned group has no memory to be reached
  // Between host tensors it is no faster than the collectives, and takes memory that containers are short of.
  const bool wanted = asked || (exchange == MoeExchange::kAuto && cargo.device.is_cuda());
  if (wanted && group.size() > 1) {
    DirectExchange* direct = cargo.row_bytes % kDirectRowBytes == 0 ? group.direct_exchange(cargo.device) : nullptr;
    if (direct != nullptr) return std::make_unique<DirectDispatcher>(placement, group, *direct);
    if (asked) {
      throw ConfigError(concat("model.moe.exchange (direct) needs ranks that reach each other's memory in the ", group.name(),
                               ": GPUs joined by NVLink, or host tensors of one node; at most ", kDirectRanks,
                               " ranks; and tokens of a multiple of ", kDirectRowBytes, " bytes, where these have ", cargo.row_bytes,
                               ". Set tokens, or auto"));
    }
  }
  return std::make_unique<ExchangeDispatcher>(placement, group, exchange != MoeExchange::kRows);
}

}  // namespace pimoe
