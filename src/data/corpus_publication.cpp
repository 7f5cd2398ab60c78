#include "data/corpus_publication.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "data/token_file_format.h"

#include <array>
#include <string_view>
#include <utility>

namespace pimoe {
namespace fs = std::filesystem;

void withdraw_earlier(const CorpusOptions& options, const char* ending, Logger& log) {
  const fs::path earlier = index_format::part_name(options.output, ending);
  std::error_code absent;
  if (!fs::exists(earlier, absent)) return;
  if (!options.tokenizer.empty() && fs::equivalent(earlier, options.tokenizer, absent)) return;
  fs::path withdrawn = earlier;
  withdrawn += ".withdrawn";
  rename_durably(earlier, withdrawn);
  log.warning(concat(earlier.string(), " is from an earlier build: it is ", withdrawn.filename().string(), " now"));
}

void publish_corpus(const fs::path& folder, const CorpusOptions& options, const std::string& model, Logger& log) {
  const std::array parts = {std::pair("validation", "-validation"), std::pair("training", "")};
  const auto for_each_file = [&](const auto& act) {
    for (const auto& [part, name] : parts) {
      for (const char* ending : {".bin", ".idx"}) {
        const fs::path working = folder / concat(part, ending);
        if (is_there(working)) act(working, index_format::part_name(options.output, concat(name, ending).c_str()), ending);
      }
    }
  };
  // Between two renames an older index would stand beside new tokens or a new tokenizer, and might even fit their size.
  for_each_file([](const fs::path&, const fs::path& last, const char* ending) {
    std::error_code refused;
    if (std::string_view(ending) == ".idx") fs::remove(last, refused);
    if (refused) throw IoError(concat("cannot replace ", last.string(), ": ", refused.message()), refused.value());
  });
  if (options.validation == 0) {
    for (const char* ending : {"-validation.idx", "-validation.bin"}) withdraw_earlier(options, ending, log);
  }
  for (const char* ending : {".loss_mask", "-validation.loss_mask"}) withdraw_earlier(options, ending, log);
  if (model.empty()) withdraw_earlier(options, ".model", log);
  if (!model.empty()) replace_file(index_format::part_name(options.output, ".model"), model);
  for_each_file([](const fs::path& working, const fs::path& last, const char*) { rename_durably(working, last); });
}

}  // namespace pimoe
