#include "base/host_name.h"

#include <unistd.h>

#include <array>

namespace pimoe {

std::string host_name() {
  std::array<char, 256> name{};  // one more than the longest, and zeros: a name that is cut has an end
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown-host";
}

}  // namespace pimoe
