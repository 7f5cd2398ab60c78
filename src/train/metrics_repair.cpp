#include "train/metrics_repair.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "train/metrics_file.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <exception>

namespace pimoe {

std::filesystem::path free_name(const std::filesystem::path& file, const std::string& ending) {
  std::filesystem::path name = file.string() + ending;
  for (int number = 2; std::filesystem::exists(name); ++number) name = concat(file.string(), ending, "-", number);
  return name;
}

std::string mend_metrics(const std::filesystem::path& file) try {
  if (!std::filesystem::exists(file)) return "";
  std::string text;
  try {
    text = read_regular_file(file);
  } catch (const IoError& error) {  // the contract: a file that cannot be read is put aside
    const std::filesystem::path damaged = free_name(file, ".damaged");
    std::filesystem::rename(file, damaged);
    return concat(file.string(), " could not be read (", error.what(), "): it was moved to ", damaged.filename().string(),
                  ", and a new one begins");
  }
  std::string kept;
  int64_t lost = 0;
  for (const std::string& line : split(text, '\n')) {
    if (line.empty()) continue;
    if (is_step_record(nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false))) {
      kept += line + "\n";
    } else {
      ++lost;
    }
  }
  if (lost == 0) return "";
  const std::filesystem::path damaged = free_name(file, ".damaged");
  replace_file(damaged, text);
  replace_file(file, kept);
  return concat(file.string(), " was damaged: ", lost, lost == 1 ? " line is" : " lines are",
                " no record of a step, and left out. The file as it was is ", damaged.filename().string());
} catch (const std::exception& error) {
  return concat(file.string(), " is damaged, and could not be mended: ", error.what());
}

std::string set_metrics_aside(const std::filesystem::path& file) try {
  if (!std::filesystem::exists(file)) return "";
  if (std::filesystem::is_regular_file(file) && std::filesystem::file_size(file) == 0) return "";
  const std::filesystem::path aside = free_name(file, ".earlier");
  std::filesystem::rename(file, aside);
  return concat("the run begins from scratch, and ", file.string(),
                " has steps of one before it, of which no checkpoint is there: it is now ", aside.filename().string());
} catch (const std::exception& error) {
  return concat(file.string(), " is of a run before this one, and could not be moved: ", error.what());
}

}  // namespace pimoe
