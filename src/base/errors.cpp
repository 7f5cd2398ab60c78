#include "base/errors.h"

namespace pimoe {
namespace {

template <class Type>
bool is(const std::exception& error) {
  return dynamic_cast<const Type*>(&error) != nullptr;
}

}  // namespace

ExitCode exit_code(const std::exception& error) {
  if (is<UsageError>(error)) return ExitCode::kUsage;
  if (is<ConfigError>(error)) return ExitCode::kBadConfig;
  if (is<SaveError>(error) || is<IoError>(error)) return ExitCode::kInputOutput;
  if (is<DataError>(error) || is<CheckpointError>(error)) return ExitCode::kBadData;
  return ExitCode::kInternal;
}

}  // namespace pimoe
