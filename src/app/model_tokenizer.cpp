#include "app/model_tokenizer.h"

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {

Tokenizer model_tokenizer(std::filesystem::path& path, const TrainConfig& config) {
  if (path.empty()) path = config.data.tokenizer;
  if (path.empty()) throw UsageError("the checkpoint's configuration names no tokenizer: give --tokenizer FILE");
  path = tokenizer_in(path);
  if (std::error_code ignored; !std::filesystem::is_regular_file(path, ignored)) {
    throw DataError(concat("tokenizer ", path.string(), " is no file: give --tokenizer FILE, the model's own"));
  }
  Tokenizer tokenizer(path);
  if (tokenizer.vocabulary() > config.model.vocabulary) {
    throw DataError(path.string() + " has more tokens than the model: it is another model's tokenizer");
  }
  return tokenizer;
}

}  // namespace pimoe
