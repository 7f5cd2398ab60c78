#pragma once

#include "base/errors.h"
#include "base/progress.h"

#include <exception>
#include <string>

namespace pimoe {

/// @returns "" if `work` returned, else what it threw, for HostCommunicator::agree.
/// @param work  of this rank alone, most of it on files: for a watchdog it may take long
/// @param is_io  set where it was an IoError
/// @throws CommError if `work` does: there is nobody left to agree with
template <class Work>
std::string trouble_of(Work&& work, bool* is_io = nullptr) {
  const PatientOperation on_files;
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
