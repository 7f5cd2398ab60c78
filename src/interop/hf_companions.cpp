#include "interop/hf_companions.h"

#include "base/file_io.h"
#include "base/strict_json.h"
#include "interop/upcycle.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLargestBytes = 1 << 30;

}  // namespace

const std::vector<std::string>& companion_names() {
  static const std::vector<std::string> names = {
      "config.json",        "generation_config.json", "tokenizer.json",        "tokenizer.model", "vocab.json",
      "merges.txt",         "added_tokens.json",      "tokenizer_config.json", "vocab.txt",       "special_tokens_map.json",
      "chat_template.json", "chat_template.jinja"};
  return names;
}

std::vector<std::string> companions_in(const fs::path& folder) {
  std::vector<std::string> found;
  for (const std::string& name : companion_names()) {
    if (is_there(folder / name)) found.push_back(name);
  }
  return found;
}

void copy_companions(const fs::path& from, const fs::path& to, bool upcycled) {
  for (const std::string& name : companions_in(from)) {
    std::string content = read_regular_file(from / name, kLargestBytes);
    if (upcycled && name == "config.json") content = config_of_any_family(parse_strict_json(content, name)).dump(2) + "\n";
    write_durably(to / name, content.data(), content.size());
  }
  sync_folder(to);
}

}  // namespace pimoe
