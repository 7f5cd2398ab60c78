#include "base/thread_error.h"

#include "base/text.h"

#include <system_error>

namespace pimoe {

std::string message_or_thread_advice(const std::exception& error) {
  const auto* of_system = dynamic_cast<const std::system_error*>(&error);
  if (of_system == nullptr || of_system->code() != std::errc::resource_unavailable_try_again) return error.what();
  return concat("a thread could not be started: ", error.what(), ". Raise the limit on processes (ulimit -u) or memory (ulimit -v)");
}

}  // namespace pimoe
