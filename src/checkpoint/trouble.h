#pragma once

#include "base/errors.h"

#include <exception>
#include <string>

namespace pimoe {

/// @returns "" if `work` returned, else what it threw, for HostCommunicator::agree.
/// @throws CommError if `work` does: there is nobody left to agree with
template <class Work>
std::string trouble_of(Work&& work) {
  try {
    work();
    return "";
  } catch (const CommError&) {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace pimoe
