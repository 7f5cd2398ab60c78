#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe data build | inspect | verify`: corpora of token ids out of text, and what is in them.
void add_data_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
