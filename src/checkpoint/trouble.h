#pragma once

#include "base/errors.h"

#include <exception>
#include <string>

namespace pimoe {

/// @returns "" if `work` returned, else what it threw, for HostCommunicator::agree.
/// @param is_io  set where it was an IoError
/// @throws CommError if `work` does: there is nobody left to agree with
template <class Work>
std::string trouble_of(Work&& work, bool* is_io = nullptr) {
  try {
    work();
    return "";
  } catch (const CommError&) {
    throw;
  } catch (const IoError& error) {
    if (is_io != nullptr) *is_io = true;
    return error.what();
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace pimoe
