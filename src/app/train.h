#pragma once

#include "app/command.h"

#include <string>

namespace pimoe {

/// `pimoe train CONFIG.yaml [key.path=value ...] [--print-config]`
void add_train_command(CLI::App& app, AppContext& context);

/// @param option  an option that `train` does not have: "--steps" or "--steps=3"  @param value  the word after it, or ""
/// @returns how the configuration's key of that name is set: "train.steps=3"; "" where there is none
std::string override_instead_of(const std::string& option, const std::string& value);

}  // namespace pimoe
