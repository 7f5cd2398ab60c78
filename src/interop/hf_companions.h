#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace pimoe {

/// Names of files of a folder of Hugging Face's that belong to the model and not to its weights, and that a run and an export take over.
const std::vector<std::string>& companion_names();

/// @returns those that are there: tokenizer, generation, config.json
std::vector<std::string> companions_in(const std::filesystem::path& folder);

/// Copies them durably into a folder that is there. @param upcycled  of config.json what is true of a model with experts too goes along alone
/// @throws IoError, DataError
void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to, bool upcycled);

}  // namespace pimoe
