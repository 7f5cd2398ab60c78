#pragma once

#include <filesystem>
#include <string>

namespace CLI {
class App;
}

namespace pimoe {

/// Adds the checkpoint that a subcommand cannot do without. @param names  as CLI11 has them: "path,--checkpoint" is taken by its place too
void add_checkpoint_option(CLI::App& command, const std::string& names, std::filesystem::path& path, const std::string& type = "PATH");

}  // namespace pimoe
