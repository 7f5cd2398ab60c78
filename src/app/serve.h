#pragma once

#include "app/command.h"

namespace pimoe {

/// `pimoe serve`: a model behind an OpenAI-compatible HTTP server.
void add_serve_command(CLI::App& app, AppContext& context);

}  // namespace pimoe
