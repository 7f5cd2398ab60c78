#include "base/errors.h"

#include <cerrno>

namespace pimoe {
namespace {

template <class Type>
bool is(const std::exception& error) {
  return dynamic_cast<const Type*>(&error) != nullptr;
}

}  // namespace

bool IoError::is_lack_of_space() const { return code_ == ENOSPC || code_ == EDQUOT || code_ == EFBIG; }

ExitCode exit_code(const std::exception& error) {
  if (is<UsageError>(error)) return ExitCode::kUsage;
  if (is<ConfigError>(error)) return ExitCode::kBadConfig;
  if (is<SaveError>(error) || is<IoError>(error)) return ExitCode::kInputOutput;
  if (is<DataError>(error) || is<CheckpointError>(error)) return ExitCode::kBadData;
  return ExitCode::kInternal;
}

}  // namespace pimoe
