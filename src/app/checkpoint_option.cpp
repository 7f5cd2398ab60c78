#include "app/checkpoint_option.h"

#include <CLI/CLI.hpp>

namespace pimoe {

void add_checkpoint_option(CLI::App& command, const std::string& names, std::filesystem::path& path, const std::string& type) {
  command.add_option(names, path, "a step-* folder, or a run folder (its newest good checkpoint)")->required()->type_name(type);
}

}  // namespace pimoe
